"""Data out of turn, against a model: a picture of which byte is where."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slirp.stack.reassembly import OutOfOrder
from slirp.stack.sequence import MASK, distance

START = 0xFFFFFF80  # numbers wrap
piece = st.tuples(st.integers(0, 300), st.integers(0, 60))


def content(position: int, length: int) -> bytes:
    return bytes((position + step) % 251 for step in range(length))


@given(st.lists(st.one_of(piece, st.integers(0, 40)), max_size=60), st.sampled_from([100, 10_000]))
def test_what_is_taken_is_what_was_put(steps: list[tuple[int, int] | int], limit: int) -> None:
    """A step is a piece put, or a number of bytes that came in turn."""
    held = OutOfOrder(limit)
    expected = 0
    put: set[int] = set()
    for step in steps:
        if isinstance(step, int):
            expected += step
        else:
            position, length = step
            if position <= expected:
                continue
            held.put((START + position) & MASK, content(position, length))
            put.update(range(position, position + length))
        while data := bytes(held.take((START + expected) & MASK)):
            assert data == content(expected, len(data))
            assert set(range(expected, expected + len(data))) <= put
            expected += len(data)
        assert held.held_bytes <= limit
        blocks = [(distance(first, START), distance(after, START)) for first, after in held.blocks(9)]
        assert all(expected < first < after for first, after in blocks)
        assert sorted(blocks) == sorted(set(blocks))
        if limit == 10_000:  # nothing was dropped
            assert expected not in put
            assert {position for first, after in blocks for position in range(first, after)} <= put
    assert (held.held_bytes == 0) == (len(held) == 0)


def test_the_run_that_came_last_is_told_first() -> None:
    held = OutOfOrder(1000)
    for position in (10, 30, 20, 50):
        held.put(position, b"12345")
    assert held.blocks(3) == [(50, 55), (20, 25), (30, 35)]
    held.put(25, b"67890")  # joins two
    assert held.blocks(2) == [(20, 35), (50, 55)]
    held.put(11, b"234")  # is there already
    assert held.blocks(9) == [(10, 15), (20, 35), (50, 55)]
