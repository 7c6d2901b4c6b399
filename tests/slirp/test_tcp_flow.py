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
from slirp.testing import Faults, FaultyLink, MemoryHost, PlainBuffers
from slirp.wire import tcp
from slirp.wire.tcp import ACK, FIN, PSH, RST, SYN, Options, Segment
from tests.slirp.flow_by_hand import MSS, SELECTIVE, ByHand, segment


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
                    flow.host_readable(self.now, 8)
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


def test_a_reset_after_both_ends_takes_nothing_from_a_slow_reader() -> None:
    """The guest has closed and answers a late segment of ours so."""
    hand = ByHand(MemoryHost(capacity=3))
    hand.open()
    hand.flow.host_readable(0.0)
    assert hand.sent.pop() == (FIN | ACK, 5001, 1000, b"")
    hand.give(FIN | ACK, 1000, 5002, b"abcdef", window=0)
    assert hand.sent.pop() == (ACK, 5002, 1007, b"")
    hand.give(RST, 1007, 0)
    hand.flow.tick(5.0)
    assert not hand.sent
    hand.host.drain(100)
    hand.flow.host_writable(5.0)
    assert bytes(hand.host.received) == b"abcdef"
    assert hand.host.finished
    assert hand.host.closed is False


def test_a_reset_before_the_last_acknowledgment_is_believed() -> None:
    hand = ByHand(MemoryHost(b"answer", capacity=3))
    hand.open()
    hand.give(FIN | ACK, 1000, 5001, b"abcdef")
    hand.flow.host_readable(0.0)
    hand.flow.host_readable(0.0)
    hand.give(RST, 1007, 0)  # it has gone without having read
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


@pytest.mark.parametrize(("pieces", "sent"), [(0, [1]), (1, [1]), (3, [1, 2]), (6, [1, 4, 1]), (20, [1, 4, 2])])
def test_a_host_with_much_is_read_more_at_once(pieces: int, sent: list[int]) -> None:
    data = random.Random(1).randbytes(6 * SIZE + 100)
    hand = ByHand(MemoryHost(data, ends=False), options=tcp.emit_options(Options(1460, 7)))
    read, plain = [], hand.host.read_into

    def read_into(views: list[memoryview]) -> int | None:
        before = len(hand.host.data)
        count = plain(views)
        read.append(-(-(before - len(hand.host.data)) // SIZE))
        return count

    hand.host.read_into = read_into  # type: ignore[method-assign]
    hand.open()
    hand.sent.clear()
    hand.give(ACK, 1000, 5001, window=60000)
    hand.flow.host_readable(0.0, pieces)
    assert read == sent
    assert [len(payload) for _, _, _, payload in hand.sent] == [SIZE] * min(sum(sent), 6) + [100] * (sum(sent) - 6)
    assert b"".join(payload for _, _, _, payload in hand.sent) == data[: sum(sent) * SIZE]
    assert hand.host.wants == (True, False)


def test_more_at_once_is_no_more_than_the_window() -> None:
    hand = ByHand(MemoryHost(bytes(8 * SIZE), ends=False), options=tcp.emit_options(Options(1460, 7)))
    hand.open()
    hand.sent.clear()
    hand.give(ACK, 1000, 5001, window=(SIZE * 2 + 1000) >> 7)
    hand.flow.host_readable(0.0, 8)
    assert sum(len(payload) for _, _, _, payload in hand.sent) == (SIZE * 2 + 1000) >> 7 << 7
    assert hand.host.wants == (False, False)
    assert (len(hand.sent), hand.buffers.out) == (3, 2)  # the last is small, and a copy


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


def test_a_syn_again_is_offered_what_a_syn_can_tell() -> None:
    """Also where an acknowledgment of nothing was answered before, with all of our window."""
    hand = ByHand(MemoryHost(), options=SELECTIVE)
    hand.flow.host_connected(0.0)
    hand.give(ACK, 1000, 9999)
    assert hand.window << tcp_flow.WINDOW_SHIFT == RECEIVE_WINDOW
    hand.give(SYN, 999, 0)
    assert hand.sent[-1][:2] == (SYN | ACK, 5000)
    assert hand.window == 0xFFFF


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


def test_the_guest_is_told_what_came_out_of_turn() -> None:
    hand = ByHand(MemoryHost(ends=False), options=SELECTIVE)
    hand.open()
    hand.give(ACK, 1010, 5001, b"later")
    assert tcp.parse_blocks(hand.options) == [(1010, 1015)]
    hand.give(ACK, 1000, 5001, b"0123456789")
    assert hand.options == b""
    assert bytes(hand.host.received) == b"0123456789later"
