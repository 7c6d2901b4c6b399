"""What comes from the guest on a connection: put in order, written to the host's socket at once, and what that does not
take kept within the window that the guest was offered. Pure. Used by `tcp_flow`, which acknowledges."""

from __future__ import annotations

from collections import deque

from slirp.stack.reassembly import OutOfOrder
from slirp.stack.sequence import MASK, distance
from slirp.stack.sides import Buffers, Host
from slirp.wire.tcp import MAX_BLOCKS

RECEIVE_WINDOW = 2 << 20  # bytes of the guest's that we hold when the host's socket takes no more


class Incoming:
    """`expected` is the next sequence number; `ended` once the guest's FIN is in its place. Whatever writes to the host
    raises HostReset."""

    __slots__ = (
        "_buffers",
        "_early",
        "_edge",
        "_fin",
        "_host",
        "_pending",
        "_repeated",
        "ended",
        "expected",
        "kept_bytes",
    )

    def __init__(self, host: Host, buffers: Buffers) -> None:
        self._host, self._buffers = host, buffers
        self.expected = 0
        self._edge = 0  # the highest sequence number we have allowed, never taken back
        self._pending: deque[bytes] = deque()
        self.kept_bytes = 0  # in order, and the host's socket has not taken them
        self._early = OutOfOrder(RECEIVE_WINDOW)
        self._repeated: tuple[int, int] | None = None  # what came again, if we have not said so
        self._fin: int | None = None
        self.ended = False

    def begin(self, sequence: int) -> None:
        """The number after the guest's SYN."""
        self.expected = self._edge = sequence & MASK

    def window(self, most: int = RECEIVE_WINDOW) -> int:
        """Bytes to offer now, so many at most."""
        room = RECEIVE_WINDOW - self.kept_bytes - self._early.held_bytes
        if room > most:
            room = most
        if room >= 0:
            edge = (self.expected + room) & MASK
            if (edge - self._edge) & MASK <= MASK >> 1:
                self._edge = edge
                return room
        return min(most, max(0, distance(self._edge, self.expected)))

    def blocks(self) -> list[tuple[int, int]]:
        """Selective acknowledgments; what came again is told of once, first (RFC 2883)."""
        again = [self._repeated] if self._repeated else []
        self._repeated = None
        return again + self._early.blocks(MAX_BLOCKS - len(again))

    def expected_data(self, sequence: int, payload: memoryview) -> bool:
        """Payload that is next, within the window, where nothing else waits. False: it is not so, and nothing has been
        done."""
        if (
            sequence != self.expected
            or self._pending
            or self._fin is not None
            or self._early.held_bytes
            or len(payload) > (self._edge - sequence) & MASK
        ):
            return False
        taken = self._host.write(payload)
        self.expected = (sequence + taken) & MASK
        if taken < len(payload):
            self._keep(payload[taken:])
        return True

    def data(self, sequence: int, payload: memoryview, fin: bool) -> bool:
        """Payload and end. False: out of turn, seen before, or it has filled a gap."""
        length = len(payload)
        late = distance(self.expected, sequence)
        plain = not late and not len(self._early)
        if fin:
            end = (sequence + length) & MASK
            if self._fin is None and distance(self._edge, end) >= -1:
                self._fin = end
        if not self.ended:
            if late < 0:
                self._keep_early(sequence, payload)
            elif late < length or fin:
                self._in_turn(payload[late:] if late else payload)
        if length and late >= length:
            self._repeated = sequence, (sequence + length) & MASK
        return plain

    def _in_turn(self, payload: memoryview) -> None:
        """What is next, and then what waited for it."""
        room = distance(self._edge, self.expected)
        self._deliver(payload[:room] if len(payload) > room else payload)
        while len(self._early):
            before = self._early.held_bytes
            piece = self._early.take(self.expected)
            self._buffers.release(before - self._early.held_bytes)
            if not piece:
                break
            self._deliver(memoryview(piece))
        if self._fin is not None and self.expected == self._fin:
            self.expected = (self.expected + 1) & MASK
            self.ended = True
            if not self._pending:
                self._host.finish()

    def _keep_early(self, sequence: int, payload: memoryview) -> None:
        room = distance(self._edge, sequence)
        if room <= 0:
            return
        kept = payload[:room]
        before = self._early.held_bytes
        if self._buffers.hold(len(kept)):
            self._early.put(sequence, kept)
            self._buffers.release(len(kept) - (self._early.held_bytes - before))

    def _deliver(self, data: memoryview) -> None:
        """In-order bytes: to the host as far as it takes them, else kept, else left for the guest to send again."""
        if not len(data):
            return
        taken = 0 if self._pending else self._host.write(data)
        self.expected = (self.expected + taken) & MASK
        if taken < len(data):
            self._keep(data[taken:])

    def _keep(self, rest: memoryview) -> None:
        """What the host has not taken; without memory the guest is to send it again."""
        if self._buffers.hold(len(rest)):
            self.expected = (self.expected + len(rest)) & MASK
            self._pending.append(bytes(rest))
            self.kept_bytes += len(rest)

    def drain(self) -> None:
        """The host's socket takes bytes again."""
        while self._pending:
            first = self._pending[0]
            taken = self._host.write(first)
            self.kept_bytes -= taken
            self._buffers.release(taken)
            if taken < len(first):
                self._pending[0] = first[taken:]
                return
            self._pending.popleft()
        if self.ended:
            self._host.finish()

    def clear(self) -> None:
        """Give up the memory."""
        self._buffers.release(self.kept_bytes + self._early.held_bytes)
        self._early = OutOfOrder(0)
        self._pending.clear()
        self.kept_bytes = 0
