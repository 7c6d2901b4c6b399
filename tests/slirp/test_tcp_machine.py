"""A state machine for the TCP flow: a guest and a host that do what they like, in any order, and what must hold always.

The guest is a model: it knows the bytes it sends, and what it has got; segments of either side may be lost, doubled or
come late, the device may be full, and the guest may take back what it has out of turn. In the end all is well again,
and then all that the host has sent arrives."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from slirp.stack import tcp_flow
from slirp.stack.sequence import MASK, distance
from slirp.stack.tcp_flow import Flow
from slirp.testing import MemoryHost, PlainBuffers
from slirp.wire import tcp
from slirp.wire.tcp import ACK, FIN, PSH, RST, SYN, Options, Segment

MSS = 1000
GUEST_START, OUR_START = 0xFFFFF000, 0xFFFFFC00  # both wrap soon
HELD_LIMIT = 3_000_000


def stream(salt: int, start: int, length: int) -> bytes:
    return bytes((position * 7 + salt + position // 251) & 0xFF for position in range(start, start + length))


class TcpMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.host = MemoryHost(b"", ends=False, capacity=0)
        self.buffers = PlainBuffers(HELD_LIMIT, 700)
        self.sent_by_host = 0  # bytes given to its socket
        self.got: set[int] = set()  # positions of the host's bytes that the guest has got
        self.in_order = 0  # of them without a gap
        self.fin_at: int | None = None  # position of our FIN
        self.edge = 0  # the last byte the guest has allowed, as a position
        self.sent = 0  # bytes of the guest that it has sent at least once
        self.ended = False  # its FIN too
        self.acked = 0  # by us
        self.allowed = 0  # the highest position we have let it send
        self.in_flight: list[Segment] = []
        self.reset = False
        self.full = False  # the device takes no data

    # ------------------------------------------------------------------------------------------------ what we send
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
        data = bytes(payload)
        if flags & RST:
            self.reset = True
            return True
        if data and self.full:
            return False
        assert flags == SYN | ACK or flags & ACK
        assert 0 <= window <= 0xFFFF
        if flags & SYN:
            self.allowed = window  # not scaled
        else:
            acked = distance(acknowledgment, (GUEST_START + 1) & MASK)
            assert acked >= self.acked  # never taken back
            assert acked <= self.sent + self.ended
            self.acked = acked
            allowed = acked + (window << tcp_flow.WINDOW_SHIFT)
            assert allowed >= self.allowed - (1 << tcp_flow.WINDOW_SHIFT)  # nor the window, but for its last bits
            self.allowed = max(self.allowed, allowed)
            first = distance(sequence, (OUR_START + 1) & MASK)
            if data:
                assert first + len(data) <= max(self.edge, self.in_order + MSS)  # a probe may be beyond
                assert data == stream(3, first, len(data))
            if flags & FIN:
                self.fin_at = first + len(data)
        self.in_flight.append(Segment(1, 2, sequence, acknowledgment, flags, window, options, memoryview(data)))
        del self.in_flight[:-50]
        return True

    # ------------------------------------------------------------------------------------------------ the guest
    @initialize(shift=st.sampled_from([0, 7]), selective=st.booleans())
    def open(self, shift: int, selective: bool) -> None:
        self.shift, self.selective = shift, selective
        self.flow = Flow(self, self.host, self.buffers, MSS, OUR_START, 0.0)
        options = tcp.emit_options(Options(MSS, shift, selective))
        self.flow.accept(Segment(1, 2, GUEST_START, 0, SYN, 1000, options, memoryview(b"")), 0.0)
        self.flow.host_connected(0.0)
        self.edge = 1000
        self.give(ACK, 0, b"", 1000 >> shift)
        assert self.flow.state == tcp_flow.OPEN

    def give(self, flags: int, position: int, payload: bytes, window: int, quick: bool = False) -> None:
        mine = self.in_order + (self.fin_at is not None and self.in_order >= self.fin_at)
        acknowledgment = (OUR_START + 1 + mine) & MASK
        self.edge = max(self.edge, self.in_order + (window << self.shift))
        sequence = (GUEST_START + 1 + position) & MASK
        options = tcp.emit_blocks(self.out_of_turn()) if self.selective else b""
        if (
            quick
            and not options
            and self.flow.predicted(sequence, acknowledgment, window, memoryview(payload), self.now)
        ):
            return
        self.flow.segment(
            Segment(1, 2, sequence, acknowledgment, flags, window, options, memoryview(payload)), self.now
        )

    def out_of_turn(self) -> list[tuple[int, int]]:
        """The last blocks of what the guest has, the highest first."""
        blocks: list[tuple[int, int]] = []
        for position in sorted((p for p in self.got if p > self.in_order), reverse=True):
            if blocks and blocks[-1][0] == position + 1:
                blocks[-1] = position, blocks[-1][1]
            elif len(blocks) == tcp.MAX_BLOCKS:
                break
            else:
                blocks.append((position, position + 1))
        return [((OUR_START + 1 + first) & MASK, (OUR_START + 1 + after) & MASK) for first, after in blocks]

    @rule(length=st.integers(1, 3000), window=st.integers(0, 200), quick=st.booleans())
    def sends(self, length: int, window: int, quick: bool) -> None:
        if not self.ended and self.sent + length <= self.allowed:
            position = self.sent
            self.sent += length
            self.give(ACK | PSH, position, stream(5, position, length), window, quick)

    @rule(skipped=st.integers(1, 2000), length=st.integers(1, 2000), window=st.integers(0, 200))
    def sends_and_a_part_is_lost(self, skipped: int, length: int, window: int) -> None:
        if not self.ended and self.sent + skipped + length <= self.allowed:
            position = self.sent + skipped
            self.sent = position + length
            self.give(ACK, position, stream(5, position, length), window)

    @rule(back=st.integers(0, 5000), length=st.integers(1, 4000), window=st.integers(0, 200))
    def sends_again(self, back: int, length: int, window: int) -> None:
        position = max(0, self.acked - min(back, 50)) if back < 2500 else max(0, self.sent - back)
        length = min(length, self.sent - position)
        if length > 0:
            self.give(ACK, position, stream(5, position, length), window)

    @rule(overlap=st.integers(1, 20), length=st.integers(1, 500))
    def sends_something_old_and_something_new(self, overlap: int, length: int) -> None:
        position = max(0, self.acked - overlap)
        if not self.ended and max(self.sent, self.acked + length) <= self.allowed:
            end = self.acked + length
            self.sent = max(self.sent, end)
            self.give(ACK, position, stream(5, position, end - position), 100)

    @rule(window=st.integers(0, 2000))
    def acknowledges(self, window: int) -> None:
        self.give(ACK, self.sent + self.ended, b"", window)

    @rule()
    def ends(self) -> None:
        self.ended = True
        self.give(FIN | ACK, self.sent, b"", 100)

    @rule()
    def takes_back(self) -> None:
        """What it has out of turn (RFC 2018 8)."""
        self.got = {position for position in self.got if position < self.in_order}

    @rule(full=st.booleans())
    def device_is_full(self, full: bool) -> None:
        self.full = full

    @precondition(lambda self: self.in_flight)
    @rule(which=st.integers(0, 49), keep=st.booleans())
    def gets(self, which: int, keep: bool) -> None:
        """Any of the last segments, again perhaps."""
        self.arrives(which % len(self.in_flight), keep)

    def arrives(self, index: int, keep: bool) -> None:
        segment = self.in_flight[index] if keep else self.in_flight.pop(index)
        first = distance(segment.sequence, (OUR_START + 1) & MASK)
        if first + len(segment.payload) <= max(self.edge, self.in_order):
            self.got.update(range(first, first + len(segment.payload)))
            while self.in_order in self.got:
                self.in_order += 1

    # ------------------------------------------------------------------------------------------------ the host, time
    @rule(length=st.integers(1, 5000), pieces=st.integers(0, 9))
    def host_sends(self, length: int, pieces: int) -> None:
        if self.host.ends is False and self.host.closed is None:
            self.host.data += stream(3, self.sent_by_host, length)
            self.sent_by_host += length
            if self.host.wants[0]:
                self.flow.host_readable(self.now, pieces)

    @rule()
    def host_ends(self) -> None:
        self.host.ends = True
        if self.host.wants[0]:
            self.flow.host_readable(self.now)

    @rule(count=st.integers(1, 10_000))
    def host_takes(self, count: int) -> None:
        self.host.drain(count)
        if self.host.wants[1]:
            self.flow.host_writable(self.now)

    @rule(seconds=st.sampled_from([0.01, 0.3, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.flow.flush_ack()
        if self.flow.repeats:
            self.flow.repeat_ack()
        self.flow.tick(self.now)

    # ------------------------------------------------------------------------------------------------ in the end
    def teardown(self) -> None:
        if not hasattr(self, "flow") or self.flow.state != tcp_flow.OPEN:
            return
        self.full = False
        for _ in range(3000):
            while self.in_flight:
                self.arrives(0, keep=False)
            if self.in_order == self.sent_by_host or self.flow.state != tcp_flow.OPEN:
                break
            self.give(ACK, self.sent + self.ended, b"", 2000)
            if self.host.wants[0]:
                self.flow.host_readable(self.now)
            if not self.in_flight:
                self.now = min(self.flow.outgoing.timer, self.now + 100)
                self.flow.tick(self.now)
        assert self.reset or self.in_order == self.sent_by_host

    # ------------------------------------------------------------------------------------------------ always
    @invariant()
    def bytes_are_right(self) -> None:
        received = bytes(self.host.received)
        assert received == stream(5, 0, len(received))
        assert len(received) <= self.sent
        assert self.in_order <= self.sent_by_host

    @invariant()
    def nothing_is_lost_or_leaks(self) -> None:
        if not hasattr(self, "flow"):
            return
        assert self.buffers.held <= HELD_LIMIT
        if self.flow.outgoing.recovery is not None:
            pieces = self.flow.outgoing.recovery._pieces
            assert sum(p.after - p.first for p in pieces) == distance(
                self.flow.outgoing.send_next, self.flow.outgoing.unacknowledged
            )
            on_the_way = sum(p.after - p.first for p in pieces if not (p.lost or p.arrived))
            assert self.flow.outgoing.recovery.pipe == on_the_way
            assert not any(p.lost and p.arrived for p in pieces)
        if self.flow.outgoing.send_next != self.flow.outgoing.unacknowledged and self.flow.state == tcp_flow.OPEN:
            assert self.flow.outgoing.timer < float("inf")  # something will happen
        if self.flow.state == tcp_flow.CLOSED:
            assert self.buffers.held == self.buffers.out == 0
        elif not self.reset:
            # what we have acknowledged is at the host, or kept for it
            assert self.acked <= len(self.host.received) + self.flow.incoming.kept_bytes + self.ended
        if self.host.finished:
            assert self.ended
            assert len(self.host.received) == self.sent


TcpMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_the_flow = TcpMachine.TestCase
