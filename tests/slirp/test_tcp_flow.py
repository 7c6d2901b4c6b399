"""The TCP flow against itself over a bad link, and against segments made by hand."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slirp.host.buffers import SIZE
from slirp.stack import tcp_flow
from slirp.stack.incoming import RECEIVE_WINDOW
from slirp.stack.outgoing import SEND_LIMIT
from slirp.stack.tcp_flow import Flow
from slirp.stack.timeout import FIRST_RTO
from slirp.testing import Faults, FaultyLink, MemoryHost, PlainBuffers
from slirp.wire import tcp
from slirp.wire.tcp import ACK, FIN, PSH, RST, SYN, Options, Segment

MSS = 1460
SELECTIVE = tcp.emit_options(Options(1460, 7, True))


class Pair:
    """Two flows, each the other's guest: `out` opened by one, taken by the other."""

    def __init__(
        self, first: MemoryHost, second: MemoryHost, faults: Faults, seed: int, held_limit: int = 1 << 40
    ) -> None:
        rng = random.Random(seed)
        self.links = FaultyLink(faults, rng), FaultyLink(faults, rng)
        self.hosts = first, second
        self.buffers = PlainBuffers(held_limit)
        self.opener = Flow(self.links[0], first, self.buffers, MSS, rng.getrandbits(32), 0.0)
        self.taker = Flow(self.links[1], second, self.buffers, MSS, rng.getrandbits(32), 0.0)
        self.links[0].receiver = self._to_taker
        self.links[1].receiver = self.opener.segment
        self.now = 0.0
        self.opener.connect(0.0)

    def _to_taker(self, segment: Segment, now: float) -> None:
        if self.taker.state == tcp_flow.CLOSED and segment.flags & SYN:
            self.taker.accept(segment, now)
            self.taker.host_connected(now)
        else:
            self.taker.segment(segment, now)

    def run(self, seconds: float) -> None:
        """Until both are closed, in simulated time."""
        flows = (self.opener, self.taker)
        over = (tcp_flow.CLOSED, tcp_flow.LINGERING)
        while self.now < seconds and (self.now == 0.0 or any(flow.state not in over for flow in flows)):
            due = [link.next_due for link in self.links] + [max(flow.outgoing.timer, self.now + 1e-4) for flow in flows]
            self.now = min(self.now + 0.05, *due)
            for link in self.links:
                link.now = self.now
            for link in self.links:
                link.deliver(self.now)
            for flow, host in zip(flows, self.hosts, strict=True):
                flow.flush_ack()
                if host.wants[0]:
                    flow.host_readable(self.now)
                if host.wants[1] and host.capacity:
                    flow.host_writable(self.now)
                if self.now >= flow.outgoing.timer:
                    flow.tick(self.now)


shares = st.sampled_from([0.0, 0.01, 0.05, 0.2])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(0, 400_000),
    st.integers(0, 400_000),
    st.builds(Faults, shares, shares, st.sampled_from([0.0, 0.001, 0.02])),
)
def test_whatever_the_link_does_the_bytes_arrive(seed: int, forth: int, back: int, faults: Faults) -> None:
    rng = random.Random(seed)
    first, second = MemoryHost(rng.randbytes(forth)), MemoryHost(rng.randbytes(back))
    expected = first.data, second.data
    pair = Pair(first, second, faults, seed)
    pair.run(seconds=3000)
    assert bytes(second.received) == expected[0]
    assert bytes(first.received) == expected[1]
    assert first.finished
    assert second.finished
    assert pair.buffers.out == pair.buffers.held == 0


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0, 1000, 100_000]), st.sampled_from([0.0, 0.05]))
def test_with_little_memory_it_is_only_slower(seed: int, held_limit: int, loss: float) -> None:
    data = random.Random(seed).randbytes(300_000)
    sender, reader = MemoryHost(data), MemoryHost(b"", capacity=100_000)
    pair = Pair(sender, reader, Faults(loss, 0.0, 0.002), seed, held_limit)
    pair.run(seconds=5)
    assert pair.buffers.held <= held_limit
    reader.capacity = 1 << 30
    pair.run(seconds=pair.now + 3000)
    assert bytes(reader.received) == data
    assert pair.buffers.held == 0


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32))
def test_a_slow_reader_shuts_the_window_and_loses_nothing(seed: int) -> None:
    data = random.Random(seed).randbytes(3 * RECEIVE_WINDOW)
    sender, reader = MemoryHost(data), MemoryHost(b"", capacity=0)
    pair = Pair(sender, reader, Faults(), seed)
    pair.run(seconds=1)
    assert len(reader.received) == 0
    held = len(data) - len(sender.data)
    assert held <= RECEIVE_WINDOW + SEND_LIMIT
    reader.capacity = 1 << 30
    pair.run(seconds=pair.now + 600)
    assert bytes(reader.received) == data


class ByHand:
    """A flow with a guest played by the test; `sent` are (flags, sequence, acknowledgment, payload)."""

    def __init__(self, host: MemoryHost, options: bytes = b"") -> None:
        self.sent: list[tuple[int, int, int, bytes]] = []
        self.host = host
        self.takes = True
        self.flow = Flow(self, host, PlainBuffers(), MSS, 5000, 0.0)
        self.flow.accept(segment(SYN, 999, 0, options=options, window=65535), 0.0)

    def transmit(
        self,
        flags: int,
        sequence: int,
        acknowledgment: int,
        window: int,
        options: bytes,
        payload: bytes | memoryview,
        mss: int,
    ) -> bool:
        self.sent.append((flags, sequence, acknowledgment, bytes(payload)))
        self.window, self.options = window, options
        return self.takes

    def open(self) -> None:
        self.flow.host_connected(0.0)
        assert self.sent.pop() == (SYN | ACK, 5000, 1000, b"")
        self.give(ACK, 1000, 5001)

    def give(self, flags: int, sequence: int, acknowledgment: int, payload: bytes = b"", window: int = 65535) -> None:
        self.flow.segment(segment(flags, sequence, acknowledgment, payload, window=window), 0.0)
        self.flow.flush_ack()


def segment(
    flags: int, sequence: int, acknowledgment: int, payload: bytes = b"", options: bytes = b"", window: int = 65535
) -> Segment:
    return Segment(1, 2, sequence & 0xFFFFFFFF, acknowledgment, flags, window, options, memoryview(payload))


def test_a_refused_connection_is_reset() -> None:
    hand = ByHand(MemoryHost())
    hand.flow.host_refused()
    assert hand.sent == [(RST | ACK, 0, 1000, b"")]
    assert hand.host.closed is False


def test_data_out_of_turn_waits_for_what_is_missing() -> None:
    hand = ByHand(MemoryHost(ends=False))
    hand.open()
    hand.give(ACK, 1003, 5001, b"def")
    assert hand.sent.pop() == (ACK, 5001, 1000, b"")
    hand.give(ACK, 1000, 5001, b"abc")
    assert hand.sent.pop() == (ACK, 5001, 1006, b"")
    hand.give(ACK, 1002, 5001, b"cdefgh")  # partly seen
    assert bytes(hand.host.received) == b"abcdefgh"
    hand.give(ACK, 1000, 5001, b"abc")  # all of it seen
    assert hand.sent.pop() == (ACK, 5001, 1008, b"")


def test_half_close_both_ways() -> None:
    hand = ByHand(MemoryHost(b"answer"))
    hand.open()
    hand.give(FIN | ACK, 1000, 5001)
    assert hand.host.finished
    hand.flow.host_readable(0.0)
    assert hand.sent[-1] == (ACK | PSH, 5001, 1001, b"answer")
    hand.give(ACK, 1001, 5007)
    hand.flow.host_readable(0.0)
    assert hand.sent[-1] == (FIN | ACK, 5007, 1001, b"")
    hand.give(ACK, 1001, 5008)
    assert hand.flow.state == tcp_flow.LINGERING
    hand.give(FIN | ACK, 1000, 5008)  # again: our acknowledgment was lost
    assert hand.sent[-1] == (ACK, 5008, 1001, b"")
    hand.flow.tick(10.0)
    assert hand.flow.state == tcp_flow.CLOSED


def test_resets_are_believed_only_in_their_place() -> None:
    hand = ByHand(MemoryHost(ends=False))
    hand.open()
    hand.give(RST, 2000, 0)
    assert hand.flow.state == tcp_flow.OPEN
    assert hand.sent.pop() == (ACK, 5001, 1000, b"")
    hand.give(RST, 1000, 0)
    assert hand.flow.state == tcp_flow.CLOSED
    assert hand.host.closed is True


def test_a_broken_host_resets_the_guest() -> None:
    hand = ByHand(MemoryHost(ends=False))
    hand.open()
    hand.host.broken = True
    hand.give(ACK, 1000, 5001, b"x")
    assert hand.sent[-1][0] == RST | ACK
    assert hand.flow.state == tcp_flow.CLOSED


def test_a_keep_alive_is_answered() -> None:
    hand = ByHand(MemoryHost(ends=False))
    hand.open()
    hand.give(ACK, 999, 5001)
    assert hand.sent.pop() == (ACK, 5001, 1000, b"")


def test_three_duplicates_send_the_first_segment_again() -> None:
    hand = ByHand(MemoryHost(b"x" * 100_000, ends=False), options=tcp.emit_options(Options(1460, 7)))
    hand.open()
    hand.give(ACK, 1000, 5001, window=60000)
    hand.flow.host_readable(0.0)
    first = hand.sent[-1]
    for _ in range(3):
        hand.give(ACK, 1000, 5001, window=60000)
    assert hand.sent[-1][:2] == first[:2]
    assert hand.sent[-1][3] == first[3][:1460]


@pytest.mark.parametrize(("reads", "sent"), [(1, 1), (3, 3), (8, 4)])
def test_a_host_with_much_is_read_as_often_as_there_is_time(reads: int, sent: int) -> None:
    hand = ByHand(MemoryHost(bytes(3 * SIZE + 100), ends=False), options=tcp.emit_options(Options(1460, 7)))
    hand.open()
    hand.give(ACK, 1000, 5001, window=60000)
    hand.flow.host_readable(0.0, reads)
    assert len(hand.sent) == sent
    assert hand.host.wants == (True, False)


def test_a_shut_window_is_probed() -> None:
    hand = ByHand(MemoryHost(b"late", ends=False))
    hand.open()
    hand.give(ACK, 1000, 5001, window=0)
    hand.flow.host_readable(0.0)
    hand.sent.clear()
    hand.flow.tick(5.0)
    assert hand.sent.pop() == (ACK, 5000, 1000, b"")  # one before: the guest answers with its window
    hand.flow.segment(segment(ACK, 1000, 5001, window=100), 5.0)
    assert hand.sent.pop()[3] == b"late"


def test_a_host_that_takes_nothing_is_read_from_once_the_guest_opens_its_window() -> None:
    hand = ByHand(MemoryHost(ends=False, capacity=0))
    hand.open()
    hand.give(ACK, 1000, 5001, b"kept", window=0)
    hand.host.data = b"answer"
    assert hand.host.wants == (True, True)
    hand.flow.host_readable(0.0)
    assert hand.host.wants == (False, True)
    hand.give(ACK, 1004, 5001, window=100)
    assert hand.sent[-1][3] == b"answer"


def test_a_guest_that_never_answers_is_given_up() -> None:
    hand = ByHand(MemoryHost())
    hand.flow.host_connected(0.0)
    now = 0.0
    for _ in range(20):
        now += 100
        hand.flow.tick(now)
    assert hand.flow.state == tcp_flow.CLOSED
    assert len(hand.sent) <= 4


near = st.integers(-60, 120)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 255),
            st.integers(-5, 5),
            near,
            st.binary(max_size=10),
            st.integers(0, 65535),
            st.one_of(st.binary(max_size=40), st.lists(st.tuples(near, near), max_size=4)),
            st.booleans(),
        ),
        max_size=30,
    )
)
def test_no_segments_break_it(
    steps: list[tuple[int, int, int, bytes, int, bytes | list[tuple[int, int]], bool]],
) -> None:
    hand = ByHand(MemoryHost(b"z" * 150), options=SELECTIVE)
    hand.flow.host_connected(0.0)
    for number, (flags, sequence, acknowledgment, payload, window, told_of, takes) in enumerate(steps):
        if isinstance(told_of, list):
            told_of = tcp.emit_blocks([(5001 + first, 5001 + after) for first, after in told_of])
        made = segment(flags, 1000 + sequence, 5001 + acknowledgment, payload, told_of, window)
        hand.takes = takes
        hand.flow.segment(made, number * 0.1)
        hand.flow.flush_ack()
        hand.flow.host_readable(number * 0.1)
        hand.flow.tick(number * 0.1)


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


def test_the_guest_is_told_what_came_out_of_turn() -> None:
    hand = ByHand(MemoryHost(ends=False), options=SELECTIVE)
    hand.open()
    hand.give(ACK, 1010, 5001, b"later")
    assert tcp.parse_blocks(hand.options) == [(1010, 1015)]
    hand.give(ACK, 1000, 5001, b"0123456789")
    assert hand.options == b""
    assert bytes(hand.host.received) == b"0123456789later"


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
