"""One TCP connection between a guest and the host: the guest's peer, byte for byte, over a socket of the host.

Theory of operation. The host's kernel does congestion, loss and timing on its side; we do them towards the guest,
where only the device can lose a frame. Direction is in the names: what goes *to the guest* is read from the host's
socket into buffers that are kept until the guest has acknowledged them (so they can be sent again), what comes *from
the guest* is written to the host's socket at once, and only what that does not take is kept, within the window we
advertised. Back-pressure is thus the guest's window in one direction and ours in the other.

    CONNECTING   the guest's SYN is here, the host's connect() is under way (an outgoing connection)
    SYN_RECEIVED the host has connected, our SYN-ACK is out
    SYN_SENT     our SYN to the guest is out (a published port)
    OPEN         both ways; each half closes by itself (`incoming.ended`, `outgoing.host_ended`)
    LINGERING    both ended; late segments are still acknowledged
    CLOSED       nothing is sent any more

Here a connection opens and ends, and segments are put together; `outgoing` and `incoming` are its two directions.

Limits: no timestamps, no urgent data. Timers are driven by `tick`: retransmission (RFC 6298), zero-window
probe, handshake, lingering. Pure: time, initial sequence number and both sides are given."""

from __future__ import annotations

from slirp.stack.incoming import RECEIVE_WINDOW, Incoming
from slirp.stack.outgoing import Outgoing
from slirp.stack.recovery import NEVER
from slirp.stack.sequence import MASK, distance
from slirp.stack.sides import Buffers, Guest, Host, HostReset
from slirp.wire import tcp
from slirp.wire.tcp import ACK, FIN, RST, SYN, Options, Segment

CONNECTING, SYN_RECEIVED, SYN_SENT, OPEN, LINGERING, CLOSED = range(6)
WINDOW_SHIFT = 6
LINGER_SECONDS = 2.0
REPEATS = 5  # of an acknowledgment that shows a loss


class Flow:
    """`mss` is the largest segment the device takes; `initial` our first sequence number. When `tick` has something to
    do stands in `outgoing.timer`."""

    __slots__ = (
        "_guest",
        "_host",
        "_shift",
        "_unanswered_bytes",
        "ack_due",
        "ack_urgent",
        "incoming",
        "last_used",
        "outgoing",
        "repeats",
        "state",
    )

    def __init__(self, guest: Guest, host: Host, buffers: Buffers, mss: int, initial: int, now: float) -> None:
        self._guest, self._host = guest, host
        self.state = CLOSED
        self.last_used = now
        self._shift = 0  # how far our windows are
        self.incoming = Incoming(host, buffers)
        self.outgoing = Outgoing(host, buffers, self.incoming, self._send, mss, initial, now)
        self.ack_due = False
        self.ack_urgent = False  # else it may wait a little for data that carries it
        self.repeats = 0  # how often the last acknowledgment is to be repeated while nothing comes
        self._unanswered_bytes = 0

    @property
    def half_closed(self) -> bool:
        """One side has ended (the guest's FIN is here, and all before it; or the host's socket), the other has not."""
        return self.incoming.ended != self.outgoing.host_ended

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
        self._reset(RST | ACK, 0, self.incoming.expected)
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
        out = self.outgoing
        out.mss = min(out.mss, options.mss)
        scaled = options.window_shift >= 0
        out.shift, self._shift = (options.window_shift, WINDOW_SHIFT) if scaled else (0, 0)
        out.send_window = segment.window
        out.selective = options.selective
        self.incoming.begin(segment.sequence + 1)

    def _send_syn(self, flags: int, now: float) -> None:
        out = self.outgoing
        shift = WINDOW_SHIFT if flags == SYN or self._shift else -1
        options = tcp.emit_options(Options(out.mss, shift, flags == SYN or out.selective))
        out.send_next = (out.unacknowledged + 1) & MASK
        acknowledgment = self.incoming.expected if flags & ACK else 0
        window = self.incoming.window(0xFFFF)
        self._guest.transmit(flags, out.unacknowledged, acknowledgment, window, options, b"", out.mss)
        out.await_answer(now)

    def _answer_to_syn(self, segment: Segment, now: float) -> None:
        """RFC 9293 3.10.7.3."""
        flags, out = segment.flags, self.outgoing
        if flags & ACK and segment.acknowledgment != out.send_next:
            if not flags & RST:
                self._reset(RST, segment.acknowledgment, 0)
                if not out.retries:  # it had the same ports open before, and has them no more: ask again at once
                    out.retries = 1
                    self._send_syn(SYN, now)
            return
        if flags & RST:
            if flags & ACK:
                self._close(reset=True)
            return
        if flags & SYN and flags & ACK:
            self._take_options(tcp.parse_options(segment.options), segment)
            self._opened(segment.acknowledgment, segment.window, now)
            self._acknowledge()
            self._fill(now)

    def _opened(self, acknowledgment: int, window: int, now: float) -> None:
        self.state = OPEN
        self.outgoing.opened(acknowledgment, window, now)
        self._host.want(True, False)

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
        elif segment.sequence != self.incoming.expected:
            self.ack_due = self.ack_urgent = True  # a keep-alive or a window probe
        if self.state == OPEN:
            if self.outgoing.blocked:
                self._fill(now)
            self._maybe_over(now)

    def predicted(self, sequence: int, acknowledgment: int, window: int, payload: memoryview, now: float) -> bool:
        """What nearly every segment with data is: the next, without options, while nothing is amiss (the idea is Van
        Jacobson's header prediction). False: it is not, and goes the long way; that its acknowledgment may have counted
        does no harm there."""
        incoming, out = self.incoming, self.outgoing
        if self.state != OPEN or not out.expected(acknowledgment, window, now):
            return False
        try:
            if not incoming.expected_data(sequence, payload):
                return False
        except HostReset:
            self.abort()
            return True
        self.last_used = now
        self.ack_due = True
        self._unanswered_bytes += len(payload)
        if self._unanswered_bytes >= out.mss:
            self.ack_urgent = True
        if incoming.kept_bytes:
            self._host.want(self._wants_read(), True)
        return True

    def _reset_arrived(self, segment: Segment) -> None:
        """RFC 5961 3.2: exactly the next sequence number, else a challenge. One that comes when both have ended, all of
        it acknowledged, answers a late segment of ours, of which the guest knows nothing any more: the host still gets
        what it has not taken (RFC 9293 3.10.7.4, LAST-ACK: only the connection goes)."""
        if self.state == CONNECTING or segment.sequence == self.incoming.expected:
            if self.state == OPEN and self._both_ended:
                self.ack_due, self.repeats, self.outgoing.timer = False, 0, NEVER  # nothing more is sent
            else:
                self._close(reset=True)
        elif 0 < distance(segment.sequence, self.incoming.expected) < RECEIVE_WINDOW:
            self._acknowledge()

    def _syn_again(self, now: float) -> None:
        if self.state == SYN_RECEIVED:
            self._send_syn(SYN | ACK, now)
        elif self.state in (OPEN, LINGERING):
            self._acknowledge()  # a challenge, RFC 5961 4.2

    def _acknowledged(self, segment: Segment, now: float) -> bool:
        """The acknowledgment and window of a segment. False: nothing else of it counts."""
        out = self.outgoing
        ahead = distance(segment.acknowledgment, out.unacknowledged)
        if ahead > distance(out.send_next, out.unacknowledged):
            self.ack_due = self.ack_urgent = True
            return False
        if self.state == SYN_RECEIVED:
            if ahead != 1:
                return False
            self._opened(segment.acknowledgment, segment.window << out.shift, now)
        else:
            out.acknowledged(segment, now)
        return True

    def _data(self, sequence: int, payload: memoryview, fin: bool) -> None:
        """What is out of turn, fills a gap or has come before is acknowledged at once (RFC 5681 4.2), and, because it
        shows that frames are lost, again a few times: not as the RFC has it, but no network is between that it could
        congest. The guest, which cannot tell a lost acknowledgment from lost data, would take the time until its next
        one for a round trip, and at 20 % wait for minutes in the end."""
        self.ack_due = True
        self._unanswered_bytes += len(payload)
        if fin or self._unanswered_bytes >= self.outgoing.mss:
            self.ack_urgent = True
        try:
            plain = self.incoming.data(sequence, payload, fin)
        except HostReset:
            self.abort()
            return
        if self.incoming.kept_bytes:
            self._host.want(self._wants_read(), True)
        if not plain:
            self._acknowledge()
            self.repeats = REPEATS

    # ------------------------------------------------------------------------------------------------ to the guest
    def flush_ack(self) -> None:
        """Acknowledge what a batch of frames has brought, unless data has carried it already."""
        if self.ack_due:
            self._acknowledge()

    def repeat_ack(self) -> None:
        """Nothing has come since the last one."""
        left = self.repeats - 1
        self._acknowledge()
        self.repeats = left

    def _acknowledge(self) -> None:
        self._send(ACK, self.outgoing.send_next, b"")

    def _send(self, flags: int, sequence: int, payload: bytes | memoryview) -> bool:
        """False: the device is full."""
        if self.state == CLOSED:
            return True
        incoming, out = self.incoming, self.outgoing
        window = incoming.window() >> self._shift
        self.ack_due = self.ack_urgent = False
        self._unanswered_bytes = self.repeats = 0
        options = b"" if payload or not out.selective else tcp.emit_blocks(incoming.blocks())
        window = window if window < 0xFFFF else 0xFFFF
        return self._guest.transmit(flags, sequence, incoming.expected, window, options, payload, out.mss)

    def _fill(self, now: float, pieces: int = 1) -> None:
        try:
            self.outgoing.fill(now, pieces)
        except HostReset:
            self.abort()

    # ------------------------------------------------------------------------------------------------ from the host
    def host_readable(self, now: float, pieces: int = 1) -> None:
        """The host's socket has data or has ended. So many large pieces are read at most."""
        self.last_used = now
        if self.state != OPEN:
            return
        self._fill(now, pieces)
        if self.outgoing.host_ended:
            self._maybe_over(now)

    def host_writable(self, now: float) -> None:
        """The host's socket takes bytes again."""
        if self.state != OPEN:
            return
        self.last_used = now
        before = self.incoming.kept_bytes
        try:
            self.incoming.drain()
        except HostReset:
            self.abort()
            return
        if before > RECEIVE_WINDOW // 2 >= self.incoming.kept_bytes and not self.incoming.ended:
            self._acknowledge()  # the window has opened
        self._host.want(self._wants_read(), bool(self.incoming.kept_bytes))
        self._maybe_over(now)

    def _wants_read(self) -> bool:
        return self.state == OPEN and not self.outgoing.host_ended and not self.outgoing.blocked

    # ------------------------------------------------------------------------------------------------ time
    def tick(self, now: float) -> None:
        """Retransmission, probe and end of lingering, when they are due."""
        out = self.outgoing
        if now < out.timer:
            return
        if self.state == LINGERING:
            self.state = CLOSED
            out.timer = NEVER
            return
        is_open = self.state == OPEN
        if is_open and out.send_next != out.unacknowledged:
            if not out.overdue(now):
                self.abort()
        elif not out.silent(not is_open, now):
            self.abort()
        elif self.state == SYN_RECEIVED:
            self._send_syn(SYN | ACK, now)
        elif self.state == SYN_SENT:
            self._send_syn(SYN, now)
        elif not out.ask(now):
            self._fill(now)

    # ------------------------------------------------------------------------------------------------ the end
    @property
    def _both_ended(self) -> bool:
        """And each has acknowledged the other's end."""
        out = self.outgoing
        return self.incoming.ended and out.host_ended and out.unacknowledged == out.send_next

    def _maybe_over(self, now: float) -> None:
        out = self.outgoing
        if self.state == OPEN and self._both_ended and not self.incoming.kept_bytes:
            self.flush_ack()
            self.state = LINGERING
            self.incoming.clear()
            out.timer = now + LINGER_SECONDS
            self._host.close(reset=False)

    def abort(self) -> None:
        """Reset both sides."""
        if self.state in (OPEN, SYN_RECEIVED):
            self._reset(RST | ACK, self.outgoing.send_next, self.incoming.expected)
        self._close(reset=True)

    def _reset(self, flags: int, sequence: int, acknowledgment: int) -> None:
        self._guest.transmit(flags, sequence, acknowledgment, 0, b"", b"", self.outgoing.mss)

    def _close(self, reset: bool) -> None:
        if self.state not in (CLOSED, LINGERING):
            self._host.close(reset)
        self.state = CLOSED
        self.ack_due = False
        self.outgoing.clear()
        self.incoming.clear()
