from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.engine.detach import KeyFilter, parse_keys
from rootless.model.errors import InvalidParameter


@pytest.mark.parametrize(
    ("text", "keys"), [("", b"\x10\x11"), ("ctrl-a,b", b"\x01b"), ("ctrl-@,ctrl-[", b"\0\x1b"), ("x", b"x")]
)
def test_keys(text: str, keys: bytes) -> None:
    assert parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "ab", "ä", "ctrl-a,,b"])
def test_keys_that_are_not(text: str) -> None:
    with pytest.raises(InvalidParameter, match="Invalid detach keys"):
        parse_keys(text)


@given(st.lists(st.binary(max_size=6)), st.sampled_from([b"\x10\x11", b"a", b"aab"]))
def test_however_input_is_cut_it_passes_up_to_the_keys(pieces: list[bytes], keys: bytes) -> None:
    whole = b"".join(pieces)
    typed = KeyFilter(keys)
    out, found = b"", False
    for piece in pieces:
        passed, found = typed.feed(piece)
        out += passed
        if found:
            break
    if found:
        assert whole.startswith(out + keys)
    else:
        assert whole.startswith(out)
        assert keys.startswith(whole[len(out) :])  # a beginning of the keys may be held back
