"""One TCP connection between a guest and the host: the guest's peer, byte for byte, over a socket of the host.

Theory of operation. The host's kernel does congestion, loss and timing on its side; we do them towards the guest,
where only the device can lose a frame. Direction is in the names: what goes *to the guest* is read from the host's
socket into buffers that are kept until the guest has acknowledged them (so they can be sent again), what comes *from
the guest* is written to the host's socket at once, and only what that does not take is kept, within the window we
advertised. Back-pressure is thus the guest's window in one direction and ours in the other.

    CONNECTING   the guest's SYN is here, the host's connect() is under way (an outgoing connection)
    SYN_RECEIVED the host has connected, our SYN-ACK is out
    SYN_SENT     our SYN to the guest is out (a published port)
    OPEN         both ways; each half closes by itself (`guest_ended`, `host_ended`)
    LINGERING    both ended; late segments are still acknowledged
    CLOSED       nothing is sent any more

Limits: no timestamps, no urgent data. Timers are driven by `tick`: retransmission (RFC 6298), zero-window
probe, handshake, lingering. Pure: time, initial sequence number and both sides are given."""

from __future__ import annotations

from slirp.stack.incoming import RECEIVE_WINDOW, Incoming
from slirp.stack.kept import Kept
from slirp.stack.recovery import DUPLICATES, NEVER, Recovery
from slirp.stack.sequence import MASK, distance
from slirp.stack.sides import Buffers, Guest, Host, HostReset
from slirp.stack.timeout import DELAYED_ACK, MAX_PROBE, MAX_RTO, Timeout
from slirp.wire import tcp
from slirp.wire.tcp import ACK, FIN, PSH, RST, SYN, Options, Segment

CONNECTING, SYN_RECEIVED, SYN_SENT, OPEN, LINGERING, CLOSED = range(6)
WINDOW_SHIFT = 6
SEND_LIMIT = 4 << 20  # bytes to the guest that may be unacknowledged, whatever window it offers
GIVE_UP_SECONDS, GIVE_UP_OPENING_SECONDS = 900.0, 120.0  # without an answer; about Linux' tcp_retries2, tcp_syn_retries
LINGER_SECONDS = 2.0
SMALL_BYTES = 4096  # pieces up to this size are copied, so that they do not hold a large buffer


class Flow:
    """`mss` is the largest segment the device takes; `initial` our first sequence number."""

    __slots__ = (
        "_blocked",
        "_buffers",
        "_deadline",
        "_dup_acks",
        "_fin_at",
        "_guest",
        "_host",
        "_incoming",
        "_kept",
        "_mss",
        "_probed",
        "_recovery",
        "_retries",
        "_selective",
        "_shift_in",
        "_shift_out",
        "_silent_since",
        "_timeout",
        "_unanswered_bytes",
        "ack_due",
        "ack_urgent",
        "host_ended",
        "last_used",
        "send_next",
        "send_window",
        "state",
        "timer",
        "unacknowledged",
    )

    def __init__(self, guest: Guest, host: Host, buffers: Buffers, mss: int, initial: int, now: float) -> None:
        self._guest, self._host, self._buffers = guest, host, buffers
        self._mss = mss
        self.state = CLOSED
        self.last_used = now
        self.unacknowledged = self.send_next = initial & MASK
        self.send_window = 0
        self._shift_out = 0  # how far the guest's windows are shifted
        self._shift_in = 0  # and ours
        self._blocked = False  # nothing is read from the host until the guest makes room
        self._kept = Kept(buffers)
        self._dup_acks = 0
        self._recovery: Recovery | None = None  # while anything may be lost
        self._selective = False  # whether both sides speak of what has come out of turn
        self._timeout = Timeout()
        self._retries = 0
        self._silent_since = now  # the first of these time-outs
        self._probed = False  # the tail has been asked for: what comes next is a time-out
        self.timer = NEVER  # when `tick` has something to do
        self._deadline = NEVER  # of the probe or time-out, in a recovery, which may have something to do sooner
        self.host_ended = False  # the host's socket has ended: a FIN follows the data
        self._incoming = Incoming(host, buffers)
        self._fin_at = 0
        self.ack_due = False
        self.ack_urgent = False  # else it may wait a little for data that carries it
        self._unanswered_bytes = 0

    @property
    def guest_ended(self) -> bool:
        """The guest's FIN is here, and all before it."""
        return self._incoming.ended

    @property
    def receive_next(self) -> int:
        """The guest's next sequence number."""
        return self._incoming.expected

    # ------------------------------------------------------------------------------------------------ opening
    def accept(self, segment: Segment, now: float) -> None:
        """The guest's first SYN; the host's connect() goes on meanwhile."""
        self._take_options(tcp.parse_options(segment.options), segment)
        self.state = CONNECTING
        self._host.want(False, True)

    def host_connected(self, now: float) -> None:
        """The host's connect() has succeeded."""
        if self.state == CONNECTING:
            self.state = SYN_RECEIVED
            self._send_syn(SYN | ACK, now)
            self._host.want(False, False)

    def host_refused(self) -> None:
        """It has failed: the guest's connect() is refused."""
        self._guest.transmit(RST | ACK, 0, self._incoming.expected, 0, b"", b"", self._mss)
        self._close(reset=False)

    def host_unreachable(self) -> None:
        """There is no way: whoever owns the flow tells the guest by ICMP."""
        self._close(reset=False)

    def connect(self, now: float) -> None:
        """Open towards the guest, for a connection that the host has accepted."""
        self.state = SYN_SENT
        self._send_syn(SYN, now)
        self._host.want(False, False)

    def _take_options(self, options: Options, segment: Segment) -> None:
        self._mss = min(self._mss, options.mss)
        scaled = options.window_shift >= 0
        self._shift_out, self._shift_in = (options.window_shift, WINDOW_SHIFT) if scaled else (0, 0)
        self._incoming.begin(segment.sequence + 1)
        self.send_window = segment.window
        self._selective = options.selective

    def _send_syn(self, flags: int, now: float) -> None:
        shift = WINDOW_SHIFT if flags == SYN or self._shift_in else -1
        options = tcp.emit_options(Options(self._mss, shift, flags == SYN or self._selective))
        self.send_next = (self.unacknowledged + 1) & MASK
        acknowledgment = self._incoming.expected if flags & ACK else 0
        window = self._incoming.window(0xFFFF)
        self._guest.transmit(flags, self.unacknowledged, acknowledgment, window, options, b"", self._mss)
        self.timer = now + self._timeout.seconds

    # ------------------------------------------------------------------------------------------------ from the guest
    def segment(self, segment: Segment, now: float) -> None:
        """Any segment of the guest's on this connection."""
        self.last_used = now
        flags = segment.flags
        if self.state == SYN_SENT:
            self._answer_to_syn(segment, now)
            return
        if flags & RST:
            self._reset_arrived(segment)
            return
        if flags & SYN:
            self._syn_again(now)
            return
        if self.state in (CONNECTING, CLOSED) or not flags & ACK:
            return
        if self.state == LINGERING:
            self._acknowledge()
            return
        if not self._acknowledged(segment, now):
            return
        payload = segment.payload
        if payload or flags & FIN:
            self._data(segment.sequence, payload, bool(flags & FIN))
        elif segment.sequence != self._incoming.expected:
            self.ack_due = self.ack_urgent = True  # a keep-alive or a window probe
        if self.state == OPEN:
            if self._blocked:
                self.fill(now)
            self._maybe_over(now)

    def predicted(self, sequence: int, acknowledgment: int, window: int, payload: memoryview, now: float) -> bool:
        """What nearly every segment with data is: the next, without options, while nothing is amiss (the idea is Van
        Jacobson's header prediction). False: it is not, and nothing has been done."""
        outstanding = (self.send_next - self.unacknowledged) & MASK
        ahead = (acknowledgment - self.unacknowledged) & MASK
        if self.state != OPEN or self._recovery is not None or self._blocked or ahead > outstanding or not window:
            return False
        try:
            if not self._incoming.expected_data(sequence, payload):
                return False
        except HostReset:
            self.abort()
            return True
        self.last_used = now
        self.send_window = window << self._shift_out
        self._dup_acks = 0
        if ahead:
            self.unacknowledged = acknowledgment
            sent_at = self._kept.acknowledged(acknowledgment)
            if sent_at >= 0:
                self._timeout.measured(now - sent_at)
            self._answered(now)
            if ahead == outstanding:
                self.timer = NEVER
        self.ack_due = True
        self._unanswered_bytes += len(payload)
        if self._unanswered_bytes >= self._mss:
            self.ack_urgent = True
        if self._incoming.kept_bytes:
            self._host.want(self._wants_read(), True)
        return True

    def _answer_to_syn(self, segment: Segment, now: float) -> None:
        """RFC 9293 3.10.7.3."""
        flags = segment.flags
        if flags & ACK and segment.acknowledgment != self.send_next:
            if not flags & RST:
                self._guest.transmit(RST, segment.acknowledgment, 0, 0, b"", b"", self._mss)
                if not self._retries:  # it had the same ports open before, and has them no more: ask again at once
                    self._retries = 1
                    self._send_syn(SYN, now)
            return
        if flags & RST:
            if flags & ACK:
                self._close(reset=True)
            return
        if flags & SYN and flags & ACK:
            options = tcp.parse_options(segment.options)
            self._take_options(options, segment)
            self.unacknowledged = self.send_next
            self._opened(now)
            self._acknowledge()
            self.fill(now)

    def _opened(self, now: float) -> None:
        self.state = OPEN
        if self._retries:
            self._retries = 0
            self._timeout.restore()
        else:
            self._timeout.measured(now - (self.timer - self._timeout.seconds))  # since our SYN
        self.timer = NEVER
        self._host.want(True, False)

    def _reset_arrived(self, segment: Segment) -> None:
        """RFC 5961 3.2: exactly the next sequence number, else a challenge."""
        if self.state == CONNECTING or segment.sequence == self._incoming.expected:
            self._close(reset=True)
        elif 0 < distance(segment.sequence, self._incoming.expected) < RECEIVE_WINDOW:
            self._acknowledge()

    def _syn_again(self, now: float) -> None:
        if self.state == SYN_RECEIVED:
            self._send_syn(SYN | ACK, now)
        elif self.state in (OPEN, LINGERING):
            self._acknowledge()  # a challenge, RFC 5961 4.2

    def _acknowledged(self, segment: Segment, now: float) -> bool:
        """The acknowledgment and window of a segment. False: nothing else of it counts."""
        acknowledgment = segment.acknowledgment
        ahead = distance(acknowledgment, self.unacknowledged)
        outstanding = distance(self.send_next, self.unacknowledged)
        if ahead > outstanding:
            self.ack_due = self.ack_urgent = True
            return False
        if self.state == SYN_RECEIVED:
            if ahead != 1:
                return False
            self.unacknowledged = acknowledgment
            self._opened(now)
            self.send_window = segment.window << self._shift_out
            return True
        if ahead < 0:
            return True
        window, offered = segment.window << self._shift_out, self.send_window
        self.send_window = window
        blocks = tcp.parse_blocks(segment.options) if self._selective and segment.options else []
        if self._recovery is not None or (blocks and any(distance(after, acknowledgment) > 0 for _, after in blocks)):
            self._repair(acknowledgment, blocks, now)
        elif ahead > 0:
            self.unacknowledged = acknowledgment
            sent_at = self._kept.acknowledged(acknowledgment)
            if sent_at >= 0:
                self._timeout.measured(now - sent_at)
            self._answered(now)
        if not self._selective and outstanding:
            again = not ahead and window == offered and not segment.payload and not segment.flags & FIN
            self._dup_acks = self._dup_acks + 1 if again else 0
            if self._dup_acks == DUPLICATES:
                self._begin_recovery(now).head_lost()
                self._send_lost(now)
        if not window:
            self._silent_since = now  # it answers, and may keep its window shut for ever
        if not outstanding - ahead:
            self.timer = now + self._timeout.seconds if not window else NEVER
        return True

    def _answered(self, now: float) -> None:
        """Data of ours has arrived, or has been sent where all had arrived."""
        if self._retries:
            self._retries = 0
            self._timeout.restore()
        self._probed = False
        # one segment may be acknowledged late
        few = (self.send_next - self.unacknowledged) & MASK <= 2 * self._mss
        self.timer = self._deadline = now + self._timeout.probe_seconds + (DELAYED_ACK if few else 0.0)

    def _data(self, sequence: int, payload: memoryview, fin: bool) -> None:
        """What is out of turn, fills a gap or has come before is acknowledged at once (RFC 5681 4.2)."""
        self.ack_due = True
        self._unanswered_bytes += len(payload)
        if fin or self._unanswered_bytes >= self._mss:
            self.ack_urgent = True
        try:
            plain = self._incoming.data(sequence, payload, fin)
        except HostReset:
            self.abort()
            return
        if self._incoming.kept_bytes:
            self._host.want(self._wants_read(), True)
        if not plain:
            self._acknowledge()

    # ------------------------------------------------------------------------------------------------ to the guest
    def flush_ack(self) -> None:
        """Acknowledge what a batch of frames has brought, unless data has carried it already."""
        if self.ack_due:
            self._acknowledge()

    def _acknowledge(self) -> None:
        self._send(ACK, self.send_next, b"")

    def _send(self, flags: int, sequence: int, payload: bytes | memoryview) -> bool:
        """False: the device is full."""
        if self.state == CLOSED:
            return True
        incoming = self._incoming
        window = min(0xFFFF, incoming.window() >> self._shift_in)
        self.ack_due = self.ack_urgent = False
        self._unanswered_bytes = 0
        options = b"" if payload or not self._selective else tcp.emit_blocks(incoming.blocks())
        return self._guest.transmit(flags, sequence, incoming.expected, window, options, payload, self._mss)

    def fill(self, now: float) -> bool:
        """Send the guest what the host has, as far as the guest's window allows. One read, so that flows take turns.
        Whether another is likely to give more."""
        if self.host_ended or self.state != OPEN:
            return False
        in_flight = (self.send_next - self.unacknowledged) & MASK
        window, was_blocked = self.send_window, self._blocked
        room = (window if window < SEND_LIMIT else SEND_LIMIT) - in_flight
        if self._recovery is not None:
            room = min(room, self._recovery.window - self._recovery.pipe)
        self._blocked = room <= 0 or (room < self._mss and in_flight > 0)  # no silly windows: RFC 9293 3.8.6.2.1
        buffer = None if self._blocked else self._buffers.take()
        if buffer is None:
            self._blocked = True
            if not in_flight:  # probe a closed window; memory may be free again
                self.timer = min(self.timer, now + self._timeout.seconds)
            self._host.want(False, bool(self._incoming.kept_bytes))
            return False
        try:
            count = self._host.read_into(buffer[:room] if room < len(buffer) else buffer)
        except HostReset:
            self._buffers.give(buffer)
            self.abort()
            return False
        if not count:
            self._buffers.give(buffer)
            if count == 0:
                self._end_to_guest(now)
            else:
                self._host.want(True, bool(self._incoming.kept_bytes))
            return False
        data: bytes | memoryview = buffer[:count]
        kept: memoryview | None = buffer
        if count <= SMALL_BYTES and self._buffers.hold(count):
            data, kept = bytes(data), None
            self._buffers.give(buffer)
        sequence = self.send_next
        self._kept.keep(sequence, data, count, kept, now)
        self.send_next = (sequence + count) & MASK
        if self._recovery is not None:
            self._recovery.sent(count, now)
        if not in_flight:
            self._answered(now)
        if not self._send(ACK | PSH, sequence, data):
            room = count
            self._refused(count, now)
        self._blocked = room <= count
        if self._blocked or was_blocked:
            self._host.want(not self._blocked, bool(self._incoming.kept_bytes))
        return count == len(buffer) and room > count

    def _end_to_guest(self, now: float) -> None:
        self.host_ended = True
        self._fin_at = self.send_next
        self.send_next = (self.send_next + 1) & MASK
        if self._recovery is not None:
            self._recovery.sent(1, now)
        self._answered(now)
        self._host.want(False, bool(self._incoming.kept_bytes))
        self._send(FIN | ACK, self._fin_at, b"")

    def host_readable(self, now: float, reads: int = 1) -> None:
        """The host's socket has data or has ended. It is read so many times at most."""
        self.last_used = now
        while self.fill(now) and reads > 1:
            reads -= 1
        if self.host_ended:
            self._maybe_over(now)

    def host_writable(self, now: float) -> None:
        """The host's socket takes bytes again."""
        if self.state != OPEN:
            return
        self.last_used = now
        before = self._incoming.kept_bytes
        try:
            self._incoming.drain()
        except HostReset:
            self.abort()
            return
        if before > RECEIVE_WINDOW // 2 >= self._incoming.kept_bytes and not self._incoming.ended:
            self._acknowledge()  # the window has opened
        self._host.want(self._wants_read(), bool(self._incoming.kept_bytes))
        self._maybe_over(now)

    def _wants_read(self) -> bool:
        return self.state == OPEN and not self.host_ended and not self._blocked

    # ------------------------------------------------------------------------------------------------ time
    def tick(self, now: float) -> None:
        """Retransmission, probe and end of lingering, when they are due."""
        if now < self.timer:
            return
        if self.state == LINGERING:
            self.state = CLOSED
            self.timer = NEVER
            return
        if self.state == OPEN and self.send_next != self.unacknowledged:
            self._overdue(now)
            return
        if not self._silent(now):
            return
        if self.state == SYN_RECEIVED:
            self._send_syn(SYN | ACK, now)
        elif self.state == SYN_SENT:
            self._send_syn(SYN, now)
        elif not self.send_window:
            self._send(ACK, (self.send_next - 1) & MASK, b"")
            self.timer = now + self._timeout.seconds
        else:
            self.timer = NEVER
            self._retries = 0
            self.fill(now)

    def _silent(self, now: float) -> bool:
        """A time-out. False: there were too many."""
        if not self._retries:
            self._silent_since = now
        self._retries += 1
        if now - self._silent_since > (GIVE_UP_SECONDS if self.state == OPEN else GIVE_UP_OPENING_SECONDS):
            self.abort()
            return False
        self._timeout.back_off(MAX_PROBE if self.state == OPEN and not self.send_window else MAX_RTO)
        return True

    # ------------------------------------------------------------------------------------------------ losses
    def _begin_recovery(self, now: float) -> Recovery:
        """From now on it is counted what is on the way."""
        if self._recovery is None:
            una = self.unacknowledged
            self._recovery = Recovery(una, self._kept.sendings(una), self._mss, SEND_LIMIT)
            if self.host_ended and self.unacknowledged != self.send_next:
                self._recovery.sent(1, now)  # our FIN
        return self._recovery

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
            if not self._selective and recovery.repairing:
                recovery.head_lost()  # a further hole, RFC 6582
            self._answered(now)
            if recovery.troubled:
                self._deadline = now + self._timeout.seconds
        self._send_lost(now)
        if recovery.over:
            self._recovery = None

    def _refused(self, count: int, now: float) -> None:
        """The device did not take the last `count` bytes."""
        recovery = self._begin_recovery(now)
        recovery.refused(count, now)
        self.timer = min(self._deadline, recovery.due)

    def _send_lost(self, now: float) -> None:
        """What is lost, as far as both windows allow; at least something where nothing is on the way."""
        recovery = self._recovery
        if recovery is None:
            return
        while (lost := recovery.next_lost()) is not None:
            sequence, length = lost
            room = max(recovery.window - recovery.pipe, 0 if recovery.pipe else self._mss)
            ahead = distance(sequence, self.unacknowledged)
            length = min(length, room, max(self.send_window - ahead, 0 if ahead else self._mss))
            if length <= 0 or (length < self._mss and length < lost[1] and recovery.pipe):
                break
            data = self._kept.at(sequence, length, self._mss)
            sent = self._send(ACK | PSH, sequence, data) if data else self._send(FIN | ACK, self._fin_at, b"")
            if not sent:
                recovery.full(now)
                break
            recovery.resent(len(data) or 1, now)
        self.timer = min(self._deadline, recovery.due)

    def _overdue(self, now: float) -> None:
        """No acknowledgment has come for what is outstanding."""
        recovery = self._recovery
        if recovery is not None and now < self._deadline:
            recovery.look(now)
        elif not self._probed and (recovery is None or not recovery.troubled):
            self._probed = True  # only the tail may be lost, of which nothing can tell: RFC 8985 7
            self._begin_recovery(now).tail()
            self._deadline = now + self._timeout.seconds
        else:
            if not self._silent(now):
                return
            self._begin_recovery(now).timed_out()
            self._deadline = now + self._timeout.seconds
        self._send_lost(now)

    # ------------------------------------------------------------------------------------------------ the end
    def _maybe_over(self, now: float) -> None:
        over = (
            self.guest_ended
            and self.host_ended
            and not self._incoming.kept_bytes
            and self.unacknowledged == self.send_next
        )
        if self.state == OPEN and over:
            self.flush_ack()
            self.state = LINGERING
            self._incoming.clear()
            self.timer = now + LINGER_SECONDS
            self._host.close(reset=False)

    def abort(self) -> None:
        """Reset both sides."""
        if self.state in (OPEN, SYN_RECEIVED):
            self._guest.transmit(RST | ACK, self.send_next, self._incoming.expected, 0, b"", b"", self._mss)
        self._close(reset=True)

    def _close(self, reset: bool) -> None:
        if self.state not in (CLOSED, LINGERING):
            self._host.close(reset)
        self.state = CLOSED
        self.timer = NEVER
        self.ack_due = False
        self._kept.clear()
        self._recovery = None
        self._incoming.clear()
