"""What a flow does when what it has sent does not arrive, with segments made by hand."""

from __future__ import annotations

from slirp.stack.timeout import FIRST_RTO
from slirp.testing import MemoryHost
from slirp.wire import tcp
from slirp.wire.tcp import ACK, PSH
from tests.slirp.flow_by_hand import SELECTIVE, ByHand, segment


def told(hand: ByHand, acknowledgment: int, *blocks: tuple[int, int], now: float = 0.0) -> None:
    options = tcp.emit_blocks(list(blocks))
    hand.flow.segment(segment(ACK, 1000, acknowledgment, options=options, window=1000), now)


def lossy(count: int) -> ByHand:
    """All is sent, in pieces of which none is sent again yet; the window is 128,000 bytes."""
    hand = ByHand(MemoryHost(b"x" * count, ends=False), options=SELECTIVE)
    hand.open()
    hand.give(ACK, 1000, 5001, window=1000)
    while hand.host.data:
        hand.flow.host_readable(0.0)
    hand.sent.clear()
    return hand


def spans(hand: ByHand) -> list[tuple[int, int]]:
    """What was sent since it was last asked."""
    made = [(sequence, len(payload)) for _, sequence, _, payload in hand.sent]
    hand.sent.clear()
    return made


def test_all_holes_that_the_guest_tells_of_are_filled_in_one_round_trip() -> None:
    hand = lossy(50_000)
    told(hand, 6001, (9001, 15001), (18001, 19001), now=0.001)
    assert spans(hand) == [(6001, 3000), (15001, 3000)]
    told(hand, 9001, (12001, 15001), (18001, 20001), now=0.0015)
    assert spans(hand) == []  # what was sent again may still be on its way, what comes after too


def test_what_is_lost_again_is_sent_again_without_a_time_out() -> None:
    hand = lossy(50_000)
    told(hand, 5001, (9001, 15001), (18001, 19001), now=0.001)
    assert spans(hand) == [(5001, 4000), (15001, 3000)]
    told(hand, 5001, (9001, 19001), now=0.002)  # the second has arrived, and was sent after the first
    assert spans(hand) == [(5001, 4000), (19001, 36_000)]  # as is all else that was sent before


def test_what_has_only_changed_places_is_not_sent_again() -> None:
    hand = lossy(50_000)
    told(hand, 5001, (8001, 9001), now=0.001)
    assert spans(hand) == []  # a quarter of a round trip is waited
    told(hand, 9001, now=0.0011)
    assert spans(hand) == []
    hand = lossy(50_000)
    told(hand, 5001, (8001, 9001), now=0.001)
    hand.flow.tick(0.0013)
    assert spans(hand) == [(5001, 3000)]


def test_the_tail_is_asked_for_before_the_time_out() -> None:
    hand = lossy(5000)
    told(hand, 6001, now=0.001)
    due = hand.flow.outgoing.timer
    hand.flow.tick(due)
    assert spans(hand) == [(8541, 1460)]
    told(hand, 6001, (8541, 10001), now=due + 0.001)
    hand.flow.tick(due + 0.002)
    assert spans(hand) == [(6001, 2540)]


def test_a_device_that_is_full_is_tried_again_soon() -> None:
    hand = ByHand(MemoryHost(b"x" * 3000, ends=False), options=SELECTIVE)
    hand.open()
    hand.takes = False
    hand.flow.host_readable(0.0)
    hand.sent.clear()
    hand.takes = True
    assert hand.flow.outgoing.timer < 0.01
    hand.flow.tick(0.01)
    hand.flow.tick(0.02)
    assert sum(length for _, length in spans(hand)) >= 1460
    hand.give(ACK, 1000, 6461)
    assert b"".join(payload for _, _, _, payload in hand.sent) == b"x" * 1540


def test_after_a_loss_questions_and_answers_soon_cost_what_they_did() -> None:
    hand = lossy(5000)
    told(hand, 5001, (6461, 10001), now=0.001)
    hand.flow.tick(0.01)
    told(hand, 10001, now=0.011)
    question = 1000
    for number in range(5):
        now = 1.0 + number
        hand.host.data = b"!"
        hand.flow.host_readable(now)
        quick = hand.flow.predicted(question, 10002 + number, 1000, memoryview(b"?"), now)
        if not quick:
            hand.flow.segment(segment(ACK | PSH, question, 10002 + number, b"?", window=1000), now)
        question += 1
    assert quick


def test_the_time_out_is_short_again_once_the_guest_answers() -> None:
    hand = ByHand(MemoryHost(b"x" * 300, ends=False), options=SELECTIVE)
    hand.open()
    hand.host.data, rest = b"x" * 100, b"y" * 100
    hand.flow.host_readable(0.0)
    now = 0.0
    for _ in range(6):  # doubled each time
        now += 100
        hand.flow.tick(now)
    hand.flow.segment(segment(ACK, 1000, 5101), now)
    hand.host.data = rest
    hand.flow.host_readable(now)
    hand.sent.clear()
    hand.flow.tick(now + 2 * FIRST_RTO)
    assert [(sequence, payload) for _, sequence, _, payload in hand.sent] == [(5101, rest)]
