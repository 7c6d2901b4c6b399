"""The multiplexed stream, in whatever pieces it comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.client.frames import STDERR, STDOUT, FrameReader, frame
from rootless.model.errors import RootlessError

FRAMES = st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=50)), max_size=8)


@given(FRAMES, st.integers(1, 30))
def test_what_was_framed_comes_out_in_order(frames: list[tuple[int, bytes]], piece: int) -> None:
    data = b"".join(frame(stream, payload) for stream, payload in frames)
    reader = FrameReader()
    found = [part for at in range(0, len(data), piece) for part in reader.feed(data[at : at + piece])]
    for stream in (STDOUT, STDERR):
        assert b"".join(d for s, d in found if s == stream) == b"".join(d for s, d in frames if s == stream)
    assert reader.whole


def test_a_stream_cut_within_a_frame_is_not_whole() -> None:
    reader = FrameReader()
    assert reader.feed(frame(STDOUT, b"hello")[:-1]) == [(STDOUT, b"hell")]
    assert not reader.whole


def test_something_else_is_refused() -> None:
    with pytest.raises(RootlessError, match="unrecognized stream"):
        FrameReader().feed(b"HTTP/1.1 500")
