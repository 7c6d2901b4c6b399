"""What goes to the guest on a connection: read from the host's socket as far as the guest's window allows, kept until
the guest has acknowledged it, sent again where it is lost. Pure. Used by `tcp_flow`, which opens and ends connections
and sends what comes from here.

It has the connection's one timer, as whatever we wait for is an answer to something sent: for data a probe and then
time-outs (RFC 8985 7, RFC 6298), for a shut window questions, and for SYNs time-outs again."""

from __future__ import annotations

from collections.abc import Callable

from slirp.stack.incoming import Incoming
from slirp.stack.kept import Kept
from slirp.stack.recovery import DUPLICATES, NEVER, Recovery
from slirp.stack.sequence import MASK, distance
from slirp.stack.sides import Buffers, Host, HostReset
from slirp.stack.timeout import DELAYED_ACK, MAX_PROBE, MAX_RTO, Timeout
from slirp.wire import tcp
from slirp.wire.tcp import ACK, FIN, PSH, Segment

SEND_LIMIT = 4 << 20  # bytes to the guest that may be unacknowledged, whatever window it offers
GIVE_UP_SECONDS, GIVE_UP_OPENING_SECONDS = 900.0, 120.0  # without an answer; about Linux' tcp_retries2, tcp_syn_retries
SMALL_BYTES = 4096  # pieces up to this size are copied, so that they do not hold a large buffer
# read where there is plenty: the host acknowledges them together, the guest wakes once, and a cache holds them
PIECES_AT_ONCE = 4


class Outgoing:
    """`mss` is the largest segment the device takes; `initial` our first sequence number. `send(flags, sequence,
    payload)` adds what is to be acknowledged; False: the device is full."""

    __slots__ = (
        "_buffers",
        "_deadline",
        "_dup_acks",
        "_fin_at",
        "_host",
        "_incoming",
        "_kept",
        "_plenty",
        "_probed",
        "_send",
        "_silent_since",
        "_timeout",
        "blocked",
        "host_ended",
        "mss",
        "recovery",
        "retries",
        "selective",
        "send_next",
        "send_window",
        "shift",
        "timer",
        "unacknowledged",
    )

    def __init__(
        self,
        host: Host,
        buffers: Buffers,
        incoming: Incoming,
        send: Callable[[int, int, bytes | memoryview], bool],
        mss: int,
        initial: int,
        now: float,
    ) -> None:
        self._host, self._buffers, self._incoming, self._send = host, buffers, incoming, send
        self.mss = mss
        self.unacknowledged = self.send_next = initial & MASK
        self.send_window = 0
        self.shift = 0  # how far the guest's windows are
        self.blocked = False  # nothing is read from the host until the guest makes room
        self._kept = Kept(buffers)
        self._plenty = False  # the host had more than was read the last time, most likely
        self._dup_acks = 0
        self.recovery: Recovery | None = None  # while anything may be lost
        self.selective = False  # whether both sides speak of what has come out of turn
        self._timeout = Timeout()
        self.retries = 0
        self._silent_since = now  # the first of these time-outs
        self._probed = False  # the tail has been asked for: what comes next is a time-out
        self.timer = NEVER  # when there is something to do
        self._deadline = NEVER  # of the probe or time-out, in a recovery, which may have something to do sooner
        self.host_ended = False  # the host's socket has ended: a FIN follows the data
        self._fin_at = 0

    # ------------------------------------------------------------------------------------------------ opening
    def await_answer(self, now: float) -> None:
        """Something was sent that the guest is to answer."""
        self.timer = now + self._timeout.seconds

    def opened(self, acknowledgment: int, window: int, now: float) -> None:
        """Our SYN has been acknowledged; `window` is as we are to understand it."""
        self.unacknowledged, self.send_window = acknowledgment, window
        if self.retries:
            self.retries = 0
            self._timeout.restore()
        else:
            self._timeout.measured(now - (self.timer - self._timeout.seconds))  # since our SYN
        self.timer = NEVER

    # ------------------------------------------------------------------------------------------------ acknowledgments
    def expected(self, acknowledgment: int, window: int, now: float) -> bool:
        """What comes with data while nothing is amiss and nothing waits for it. False: it is not so, and nothing has
        been done."""
        una = self.unacknowledged
        ahead = (acknowledgment - una) & MASK
        if self.recovery is not None or self.blocked or not window or ahead > (self.send_next - una) & MASK:
            return False
        self.send_window = window << self.shift
        self._dup_acks = 0
        if ahead:
            self._advance(acknowledgment, now)
        return True

    def _advance(self, acknowledgment: int, now: float) -> None:
        self.unacknowledged = acknowledgment
        sent_at = self._kept.acknowledged(acknowledgment)
        if sent_at >= 0:
            self._timeout.measured(now - sent_at)
        self._answered(now)
        if acknowledgment == self.send_next:
            self.timer = NEVER

    def acknowledged(self, segment: Segment, now: float) -> None:
        """The acknowledgment and window of any segment. It is of nothing that was not sent."""
        acknowledgment = segment.acknowledgment
        ahead = distance(acknowledgment, self.unacknowledged)
        if ahead < 0:
            return
        outstanding = distance(self.send_next, self.unacknowledged)
        window, offered = segment.window << self.shift, self.send_window
        self.send_window = window
        blocks = tcp.parse_blocks(segment.options) if self.selective and segment.options else []
        if self.recovery is not None or (blocks and any(distance(after, acknowledgment) > 0 for _, after in blocks)):
            self._repair(acknowledgment, blocks, now)
        elif ahead > 0:
            self._advance(acknowledgment, now)
        if not self.selective and outstanding:
            again = not ahead and window == offered and not segment.payload and not segment.flags & FIN
            self._dup_acks = self._dup_acks + 1 if again else 0
            if self._dup_acks == DUPLICATES:
                self._begin_recovery(now).head_lost()
                self._send_lost(now)
        if not window:
            self._silent_since = now  # it answers, and may keep its window shut for ever
        if outstanding == ahead:
            self.timer = now + self._timeout.seconds if not window else NEVER

    def _answered(self, now: float) -> None:
        """Data of ours has arrived, or has been sent where all had arrived."""
        if self.retries:
            self.retries = 0
            self._timeout.restore()
        self._probed = False
        # one segment may be acknowledged late
        few = (self.send_next - self.unacknowledged) & MASK <= 2 * self.mss
        self.timer = self._deadline = now + self._timeout.probe_seconds + (DELAYED_ACK if few else 0.0)

    # ------------------------------------------------------------------------------------------------ data
    def fill(self, now: float, pieces: int = 1) -> None:
        """Send the guest what the host has, as far as the guest's window allows: so many large pieces at most, so that
        flows take turns, and at least one. Raises HostReset."""
        while not self.host_ended:
            count = min(pieces, PIECES_AT_ONCE) if self._plenty and pieces > 1 else 1
            self._plenty = self._fill(count, now)
            pieces -= count
            if pieces <= 0 or not self._plenty:
                break

    def _fill(self, pieces: int, now: float) -> bool:
        """With one read. Whether another is likely to give as much."""
        in_flight = (self.send_next - self.unacknowledged) & MASK
        window, was_blocked = self.send_window, self.blocked
        room = (window if window < SEND_LIMIT else SEND_LIMIT) - in_flight
        if self.recovery is not None:
            room = min(room, self.recovery.window - self.recovery.pipe)
        self.blocked = room <= 0 or (room < self.mss and in_flight > 0)  # no silly windows: RFC 9293 3.8.6.2.1
        buffers: list[memoryview] = []
        views, most = buffers, 0
        while not self.blocked and most < room and len(buffers) < pieces and (buffer := self._buffers.take()):
            buffers.append(buffer)
            most += len(buffer)
        if not buffers:
            self._block(in_flight, now)
            return False
        if most > room:
            views = [*buffers[:-1], buffers[-1][: room - most]]
        try:
            count = self._host.read_into(views)
        except HostReset:
            self._give(buffers)
            raise
        if not count:
            self._give(buffers)
            if count == 0:
                self._end(now)
            else:
                self._host.want(True, bool(self._incoming.kept_bytes))
            return False
        left, taken = count, True
        while left > 0:
            buffer = buffers.pop(0)
            taken = self._send_new(buffer, min(left, len(buffer)), now) and taken
            left -= len(buffer)
        self._give(buffers)
        self.blocked = room <= count or not taken
        if self.blocked or was_blocked:
            self._host.want(not self.blocked, bool(self._incoming.kept_bytes))
        return count == most and not self.blocked

    def _send_new(self, buffer: memoryview, count: int, now: float) -> bool:
        """What stands at the start of a buffer that has been taken. False: the device is full."""
        data: bytes | memoryview = buffer[:count]
        kept: memoryview | None = buffer
        if count <= SMALL_BYTES and self._buffers.hold(count):
            data, kept = bytes(data), None
            self._buffers.give(buffer)
        sequence = self.send_next
        self._kept.keep(sequence, data, count, kept, now)
        self.send_next = (sequence + count) & MASK
        if self.recovery is not None:
            self.recovery.sent(count, now)
        if sequence == self.unacknowledged:
            self._answered(now)
        if self._send(ACK | PSH, sequence, data):
            return True
        self._refused(count, now)
        return False

    def _give(self, buffers: list[memoryview]) -> None:
        for buffer in buffers:
            self._buffers.give(buffer)

    def _block(self, in_flight: int, now: float) -> None:
        self.blocked = True
        if not in_flight:  # probe a closed window; memory may be free again
            self.timer = min(self.timer, now + self._timeout.seconds)
        self._host.want(False, bool(self._incoming.kept_bytes))

    def _end(self, now: float) -> None:
        self.host_ended = True
        self._fin_at = self.send_next
        self.send_next = (self.send_next + 1) & MASK
        if self.recovery is not None:
            self.recovery.sent(1, now)
        self._answered(now)
        self._host.want(False, bool(self._incoming.kept_bytes))
        self._send(FIN | ACK, self._fin_at, b"")

    # ------------------------------------------------------------------------------------------------ time
    def silent(self, opening: bool, now: float) -> bool:
        """A time-out. False: there were too many."""
        if not self.retries:
            self._silent_since = now
        self.retries += 1
        if now - self._silent_since > (GIVE_UP_OPENING_SECONDS if opening else GIVE_UP_SECONDS):
            return False
        self._timeout.back_off(MAX_RTO if opening or self.send_window else MAX_PROBE)
        return True

    def ask(self, now: float) -> bool:
        """Of an open connection where nothing is outstanding: whether the window is open, which a segment of before
        makes the guest tell. If it was open all the time, there was no memory: False, and there may be again."""
        if self.send_window:
            self.timer = NEVER
            self.retries = 0
            return False
        self._send(ACK, (self.send_next - 1) & MASK, b"")
        self.await_answer(now)
        return True

    def overdue(self, now: float) -> bool:
        """No acknowledgment has come for what is outstanding. False: for too long."""
        recovery = self.recovery
        if recovery is not None and now < self._deadline:
            recovery.look(now)
        elif not self._probed and (recovery is None or not recovery.troubled):
            self._probed = True  # only the tail may be lost, of which nothing can tell: RFC 8985 7
            self._begin_recovery(now).tail()
            self._deadline = now + self._timeout.seconds
        else:
            if not self.silent(False, now):
                return False
            self._begin_recovery(now).timed_out()
            self._deadline = now + self._timeout.seconds
        self._send_lost(now)
        return True

    # ------------------------------------------------------------------------------------------------ losses
    def _begin_recovery(self, now: float) -> Recovery:
        """From now on it is counted what is on the way."""
        if self.recovery is None:
            una = self.unacknowledged
            self.recovery = Recovery(una, self._kept.sendings(una), self.mss, SEND_LIMIT)
            if self.host_ended and una != self.send_next:
                self.recovery.sent(1, now)  # our FIN
        return self.recovery

    def _repair(self, acknowledgment: int, blocks: list[tuple[int, int]], now: float) -> None:
        """An acknowledgment while something is amiss."""
        recovery = self._begin_recovery(now)
        news = recovery.acknowledged(acknowledgment, blocks, now)
        self.unacknowledged = acknowledgment
        self._kept.acknowledged(acknowledgment)
        if recovery.round_trip >= 0:
            self._timeout.measured(recovery.round_trip)
        recovery.look(now)
        if news:
            if not self.selective and recovery.repairing:
                recovery.head_lost()  # a further hole, RFC 6582
            self._answered(now)
            if recovery.troubled:
                self._deadline = now + self._timeout.seconds
        self._send_lost(now)
        if recovery.over:
            self.recovery = None

    def _refused(self, count: int, now: float) -> None:
        """The device did not take the last `count` bytes."""
        recovery = self._begin_recovery(now)
        recovery.refused(count, now)
        self.timer = min(self._deadline, recovery.due)

    def _send_lost(self, now: float) -> None:
        """What is lost, as far as both windows allow; at least something where nothing is on the way."""
        recovery = self.recovery
        if recovery is None:
            return
        while (lost := recovery.next_lost()) is not None:
            sequence, length = lost
            room = max(recovery.window - recovery.pipe, 0 if recovery.pipe else self.mss)
            ahead = distance(sequence, self.unacknowledged)
            length = min(length, room, max(self.send_window - ahead, 0 if ahead else self.mss))
            if length <= 0 or (length < self.mss and length < lost[1] and recovery.pipe):
                break
            data = self._kept.at(sequence, length, self.mss)
            sent = self._send(ACK | PSH, sequence, data) if data else self._send(FIN | ACK, self._fin_at, b"")
            if not sent:
                recovery.full(now)
                break
            recovery.resent(len(data) or 1, now)
        self.timer = min(self._deadline, recovery.due)

    def clear(self) -> None:
        """Give up the memory."""
        self.timer = NEVER
        self._kept.clear()
        self.recovery = None
