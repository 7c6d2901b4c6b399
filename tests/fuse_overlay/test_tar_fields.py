"""A tar's names, numbers and sums, each taken a short way where it is as most are."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_overlay.errors import LayerError
from fuse_overlay.layers.entry import normalise
from fuse_overlay.layers.tar import BLOCK, TarParser, _number

COMPONENTS = st.sampled_from([b"a", b"usr", b".", b"..", b"", b".hidden", b"x.", b"n\0", b"b" * 255, b"b" * 256])


@given(st.lists(COMPONENTS, max_size=6))
def test_a_name_is_its_components_without_empty_ones_and_dots(parts: list[bytes]) -> None:
    name = b"/".join(parts)
    wanted = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b"\0" in name or b".." in wanted or any(len(part) > 255 for part in wanted):
        with pytest.raises(LayerError):
            normalise(name)
    else:
        assert normalise(name) == b"/".join(wanted)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b"000644 \0", 0o644),
        (b"    644 ", 0o644),
        (b"644\0junk\0", 0o644),
        (b"12345670", 0o12345670),
        (b"       \0", 0),
        (b"\0\0\0\0\0\0\0\0", 0),
        (b"\x80\0\0\0\0\0\1\0", 256),
        (b"\xff\xff\xff\xff\xff\xff\xff ", -224),
    ],
)
def test_numbers(field: bytes, value: int) -> None:
    assert _number(field, 0) == value


@pytest.mark.parametrize("field", [b"0000648\0", b"0x00644\0", b"-------\0"])
def test_what_is_no_number_is_refused(field: bytes) -> None:
    with pytest.raises(LayerError):
        _number(field, BLOCK)


OUTSIDE_THE_SUM = st.integers(0, 147) | st.integers(156, BLOCK - 1)  # the sum itself may be written in several ways


@given(at=OUTSIDE_THE_SUM, change=st.integers(1, 255), size=st.sampled_from([1, 7, BLOCK, 10_000]))
def test_a_header_of_which_a_byte_is_wrong_is_refused(at: int, change: int, size: int) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("usr/share/file"))
    good = stream.getvalue()
    (entry,) = list(fed(good, size))
    assert entry == b"usr/share/file"
    bad = bytearray(good)
    bad[at] = (bad[at] + change) % 256
    with pytest.raises(LayerError):
        list(fed(bytes(bad), size))


def fed(data: bytes, size: int) -> list[bytes]:
    parser = TarParser()
    return [entry.path for at in range(0, len(data), size) for entry in parser.feed(data[at : at + size])]
