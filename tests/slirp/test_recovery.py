"""What is lost and what is on the way, whatever a guest says."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slirp.stack.kept import Kept
from slirp.stack.recovery import FLOOR, MAX_PIECES, Recovery
from slirp.stack.sequence import MASK
from slirp.testing import PlainBuffers

MSS, START = 100, 0xFFFFFF00  # numbers wrap soon
LIMIT = 1 << 20


def check(recovery: Recovery, sent: int, acknowledged: int) -> None:
    pieces = recovery._pieces
    assert sum(piece.after - piece.first for piece in pieces) == sent - acknowledged
    assert all(one.after == other.first for one, other in pairwise(pieces))
    assert all(piece.first < piece.after for piece in pieces)
    assert recovery.pipe == sum(p.after - p.first for p in pieces if not (p.lost or p.arrived))
    assert not any(piece.lost and piece.arrived for piece in pieces)
    assert MSS <= recovery.window <= LIMIT


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_the_books_are_right(seed: int, steps: int) -> None:
    rng = random.Random(seed)
    sent, acknowledged, now = 500, 0, 0.0
    recovery = Recovery(START, [(300, 0.0), (200, 0.0)], MSS, LIMIT)
    for _ in range(steps):
        now += rng.random() * 0.01
        match rng.randrange(7):
            case 0:
                length = rng.randrange(1, 1000)
                recovery.sent(length, now)
                sent += length
                if rng.random() < 0.2:
                    recovery.refused(length, now)
            case 1 | 2:
                position = rng.choice([acknowledged, rng.randrange(acknowledged, sent + 1)])
                places = [rng.randrange(acknowledged - 300, sent + 300) for _ in range(8)]
                blocks = [((START + a) & MASK, (START + b) & MASK) for a, b in zip(places[:4], places[4:], strict=True)]
                recovery.acknowledged((START + position) & MASK, blocks, now)
                acknowledged = position
            case 3:
                recovery.look(now)
            case 4:
                while (lost := recovery.next_lost()) is not None:
                    recovery.resent(rng.randrange(1, lost[1] + 1), now)
                    check(recovery, sent, acknowledged)
            case 5:
                recovery.timed_out() if rng.random() < 0.3 else recovery.head_lost()
            case 6:
                if acknowledged < sent and not recovery.troubled:
                    recovery.tail()
        check(recovery, sent, acknowledged)


def test_a_guest_that_tells_of_every_second_byte_makes_no_long_list() -> None:
    recovery = Recovery(START, [(100_000, 0.0)], MSS, LIMIT)
    for position in range(1, 20_000, 2):
        recovery.acknowledged(START, [((START + position) & MASK, (START + position + 1) & MASK)], 0.001)
    assert len(recovery._pieces) <= MAX_PIECES + 2
    for _ in range(3 * MAX_PIECES):
        recovery.sent(1, random.random())
    assert len(recovery._pieces) <= MAX_PIECES + 3


def test_losses_shrink_the_window_to_its_floor_and_it_grows_again() -> None:
    recovery = Recovery(START, [(LIMIT, 0.0)], MSS, LIMIT)
    sent, acknowledged, now = LIMIT, 0, 0.0
    windows = []
    for _ in range(200):
        now += 0.001
        first = acknowledged + MSS
        if len(windows) < 20:
            recovery.acknowledged((START + acknowledged) & MASK, [((START + first) & MASK, (START + sent) & MASK)], now)
            recovery.look(now + 0.1)
            while (lost := recovery.next_lost()) is not None:
                recovery.resent(lost[1], now)
        acknowledged = sent
        recovery.acknowledged((START + sent) & MASK, [], now + 0.0005)
        windows.append(recovery.window)
        recovery.sent(recovery.window, now)
        sent += recovery.window
    assert min(windows) >= FLOOR
    assert windows[20] < 2 * FLOOR
    assert windows[-1] == LIMIT


def repaired(length: int) -> Recovery:
    """So much was sent, the first of it lost; now all has arrived."""
    recovery = Recovery(START, [(length, 0.0)], MSS, LIMIT)
    rest = (START + MSS) & MASK, (START + length) & MASK
    recovery.acknowledged(START, [rest], 0.001)
    recovery.look(0.1)
    while (lost := recovery.next_lost()) is not None:
        recovery.resent(lost[1], 0.1)
    recovery.acknowledged(rest[1], [], 0.101)
    recovery.look(0.101)
    return recovery


@pytest.mark.parametrize("waiting", [0, 1])
def test_it_is_over_for_who_sends_little_once_that_has_arrived(waiting: int) -> None:
    """Questions and answers, each before (or after) the one before it has arrived. The window would need megabytes of
    them to grow."""
    sent = 1000
    recovery = repaired(sent)
    assert recovery.window < LIMIT
    assert not recovery.over
    for number in range(3):
        recovery.sent(1, 0.2 + number)
        sent += 1
        recovery.acknowledged((START + sent - waiting) & MASK, [], 0.201 + number)
        recovery.look(0.201 + number)
    assert recovery.over


def test_it_is_not_over_for_who_fills_the_window() -> None:
    sent = 2 * FLOOR
    recovery, now, rounds = repaired(sent), 0.2, 0
    while not recovery.over:
        assert recovery.window < LIMIT
        rounds, now, first = rounds + 1, now + 0.001, sent
        sent += recovery.window
        for position in range(first, sent, MSS):
            recovery.sent(min(MSS, sent - position), now)
        for position in range(first + MSS, sent + 1, MSS):
            recovery.acknowledged((START + position) & MASK, [], now)
        recovery.acknowledged((START + sent) & MASK, [], now)
        recovery.look(now)
        assert rounds < 40
    assert recovery.window == LIMIT


def test_few_bytes_make_the_window_grow_as_well() -> None:
    recovery = repaired(2 * FLOOR)
    before = recovery.window
    recovery.sent(before, 0.2)
    for position in range(4, 804, 4):
        recovery.acknowledged((START + 2 * FLOOR + position) & MASK, [], 0.2)
    assert recovery.window == before + 100


def test_small_pieces_are_sent_again_together() -> None:
    kept = Kept(PlainBuffers())
    data = random.Random(1).randbytes(3000)
    for position in range(0, 3000, 3):
        kept.keep((START + position) & MASK, data[position : position + 3], 3, None, 0.0)
    assert kept.at((START + 301) & MASK, 2000, 1000) == data[301:1301]
    assert kept.at((START + 2998) & MASK, 2000, 1000) == data[2998:]
    assert kept.at((START + 3000) & MASK, 1, 1000) == b""
