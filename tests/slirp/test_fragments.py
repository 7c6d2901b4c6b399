"""Reassembly: pieces in any order, doubled, overlapping, too many."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from slirp.stack import fragments
from slirp.stack.fragments import Fragments
from slirp.wire.ip import MORE_FRAGMENTS, UDP, Packet


def piece(data: bytes, start: int, end: int, identification: int = 1) -> Packet:
    more = MORE_FRAGMENTS if end < len(data) else 0
    return Packet(bytes(4), bytes(4), UDP, 64, identification, start // 8 | more, memoryview(data[start:end]))


def cut(data: bytes, sizes: list[int]) -> list[Packet]:
    pieces, start = [], 0
    for size in sizes:
        if start < len(data):
            pieces.append(piece(data, start, min(start + size * 8, len(data))))
            start += size * 8
    return pieces if start >= len(data) else [*pieces, piece(data, start, len(data))]


@given(st.binary(min_size=17, max_size=3000), st.lists(st.integers(1, 60), max_size=40), st.randoms(), st.booleans())
def test_pieces_in_any_order_make_the_whole(data: bytes, sizes: list[int], order: random.Random, doubled: bool) -> None:
    pieces = cut(data, sizes)
    order.shuffle(pieces)
    held = Fragments()
    for one in pieces[:-1]:
        assert held.put(one, 0.0) is None
        if doubled:
            assert held.put(one, 0.0) is None
    whole = held.put(pieces[-1], 0.0)
    assert whole is not None
    assert bytes(whole.payload) == data
    assert not whole.is_fragment
    assert len(held) == 0


def test_an_overlap_drops_the_datagram() -> None:
    held = Fragments()
    data = bytes(64)
    assert held.put(piece(data, 0, 32), 0.0) is None
    assert held.put(piece(data, 24, 64), 0.0) is None
    assert len(held) == 0


def test_the_oldest_of_too_many_goes_and_time_does_the_rest() -> None:
    held = Fragments()
    for number in range(fragments.MAX_DATAGRAMS + 1):
        held.put(piece(bytes(32), 0, 16, number), float(number) / 1000)
    assert len(held) == fragments.MAX_DATAGRAMS
    assert held.put(piece(bytes(32), 16, 32, 0), 1.0) is None  # its first half went
    assert held.put(piece(bytes(32), 16, 32, 5), 1.0) is not None
    held.expire(fragments.HOLD_SECONDS + 2)
    assert len(held) == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 0x3FFF), st.binary(max_size=40), st.integers(0, 20)), max_size=60
    )
)
def test_nothing_breaks_it(steps: list[tuple[int, int, bytes, int]]) -> None:
    held = Fragments()
    for identification, field, payload, now in steps:
        packet = Packet(bytes(4), bytes(4), UDP, 64, identification, field, memoryview(payload))
        whole = held.put(packet, float(now))
        assert whole is None or len(whole.payload) <= fragments.MAX_BYTES
    assert len(held) <= fragments.MAX_DATAGRAMS
