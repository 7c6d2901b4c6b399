"""TCP of one network: guests' connections to the host's sockets, and published ports' to guests.

Owns the connections (`connection`); what a flow does is decided in `stack.tcp_flow`. Called by `router` with packets
and by the poller with sockets."""

from __future__ import annotations

import errno
import heapq
import itertools
import resource
import socket
import struct
import time
from collections.abc import Callable

from slirp.host.connection import RESET_LINGER, Connection, keep_near
from slirp.host.endpoint import Endpoint
from slirp.host.outbound import Outbound
from slirp.host.poller import Poller
from slirp.stack import tcp_flow
from slirp.stack.recovery import NEVER
from slirp.wire import ethernet, ipv4, tcp, virtio
from slirp.wire.checksum import checksum, pseudo_sum
from slirp.wire.ip import TCP, Packet

FLOWS_SHARE = 0.75  # of the descriptors the process may have, for one guest: its neighbours find some left
MAX_HALF_OPEN = 1024  # of one guest
MAX_LINGERING = 1024  # of one network; who is over takes no room from who is not
HALF_CLOSED_SECONDS = 900.0
ACK_SECONDS = 0.001  # how long an acknowledgment may wait; RFC 9293 3.8.6.3 allows 0.5
TIMER_SECONDS = 0.001  # between two looks at timers, at least
REPEAT_SECONDS = 0.01  # until one is repeated where frames are lost; each time twice as long
_KIND = virtio.HEADER_BYTES + 12  # of a frame with its virtio header: where the Ethernet type is
_IP = virtio.HEADER_BYTES + 14
_TCP4, _TCP6 = _IP + 20, _IP + 40
# From the Ethernet type to TCP's window, where IP has no options: type, version, length, (pieces,) protocol; addresses
# and ports, which stand side by side; sequence, acknowledgment, offset, flags, window.
_SIMPLE4, _SIMPLE6 = struct.Struct("!HBxH2xHxB2x12sIIBBH"), struct.Struct("!HB3xHBx36sIIBBH")
_IPV4_FIRST = ethernet.IPV4 >> 8
_PIECES = ipv4.MORE_FRAGMENTS | ipv4.OFFSET_MASK
_CHECKSUM_KNOWN = virtio.NEEDS_CSUM | virtio.DATA_VALID
_HALF_OPEN = (tcp_flow.CONNECTING, tcp_flow.SYN_RECEIVED, tcp_flow.SYN_SENT)
_ENDED = (tcp_flow.CLOSED, tcp_flow.LINGERING)


class Connections:
    """All TCP of one network. `target(endpoint, address, port)` decides where a guest's connection really goes: an
    address and port of the host's, a socket that is connected already, or None to refuse."""

    def __init__(
        self,
        poller: Poller,
        target: Callable[[Endpoint, bytes, int], tuple[str, int] | socket.socket | None],
        outbound: Outbound | None = None,
    ) -> None:
        self.poller = poller
        self._outbound = outbound
        self._target = target
        self._max_flows = int(resource.getrlimit(resource.RLIMIT_NOFILE)[0] * FLOWS_SHARE)
        self._by_key: dict[bytes, Connection] = {}
        # a heap of times, and whose: not after the flow's timer, which has mostly gone on since. What has another time
        # than its connection's `looked_at` counts no more
        self._timers: list[tuple[float, int, Connection]] = []
        self._numbers = itertools.count()  # what was put there at the same time comes in this order
        self._patient: set[Connection] = set()  # their acknowledgments wait for data to carry them
        self._acks_due = NEVER  # not after the first of theirs
        self.due = NEVER  # when to `act`
        self._lingering: dict[Connection, None] = {}  # in the order they ended
        self._half_open: set[Connection] = set()
        self._acknowledged: list[Connection] = []  # by bare acknowledgments of this batch
        self._unacknowledged: list[Connection] = []
        self._next_reap = 0.0

    # ------------------------------------------------------------------------------------------------ from guests
    def packet(self, endpoint: Endpoint, packet: Packet, checksum_known: bool) -> None:
        """A TCP segment of a guest."""
        data = packet.payload
        if not checksum_known and checksum(data, pseudo_sum(packet.source, packet.destination, TCP, len(data))):
            return
        segment = tcp.parse(data)
        if segment is None:
            return
        key = packet.source + packet.destination + data[:4]
        connection = self._by_key.get(key)
        now = time.monotonic()
        flags = segment.flags
        if connection is not None and flags & (tcp.SYN | tcp.ACK) == tcp.SYN and connection.flow.state in _ENDED:
            self._drop(connection)  # the same ports again, soon after the end
            connection = None
        if connection is None:
            if flags & (tcp.SYN | tcp.ACK | tcp.RST) == tcp.SYN:
                self._open(endpoint, key, packet, segment, now)
            elif not flags & tcp.RST:
                refuse(endpoint, packet, segment)
            return
        self._segment(connection, segment, now)

    def known(self, endpoint: Endpoint, frame: bytearray, view: memoryview, length: int) -> bool:
        """A frame, with its virtio header, that may be a whole TCP segment of a connection we know: almost all are.
        False: it is something else, or not as simple; nothing has been done then."""
        if length < _TCP4 + tcp.HEADER_BYTES:
            return False
        if frame[_KIND] == _IPV4_FIRST:
            fields = _SIMPLE4.unpack_from(frame, _KIND)
            kind, first, total, pieces, protocol, key, sequence, acknowledgment, offset, flags, window = fields
            if kind != ethernet.IPV4 or first != 0x45 or protocol != TCP or pieces & _PIECES:
                return False
            connection = self._by_key.get(key)
            if connection is None or int.from_bytes(view[_IP:_TCP4], "big") % 0xFFFF:
                return False
            start, end = _TCP4, _IP + total
        elif length >= _TCP6 + tcp.HEADER_BYTES:
            fields = _SIMPLE6.unpack_from(frame, _KIND)
            kind, first, total, protocol, key, sequence, acknowledgment, offset, flags, window = fields
            if kind != ethernet.IPV6 or first >> 4 != 6 or protocol != TCP:
                return False
            connection = self._by_key.get(key)
            if connection is None:
                return False
            start, end = _TCP6, _TCP6 + total
        else:
            return False
        header_end = start + tcp.HEADER_BYTES
        options_end = start + ((offset & 0xF0) >> 2)
        if (
            connection.endpoint is not endpoint
            or flags & (tcp.SYN | tcp.RST)
            or not frame[0] & _CHECKSUM_KNOWN
            or not header_end <= options_end <= end <= length
        ):
            return False
        flow, now = connection.flow, time.monotonic()
        payload = view[options_end:end]
        if (
            options_end == header_end < end
            and flags & (tcp.ACK | tcp.FIN) == tcp.ACK
            and connection.acknowledgment is None
            and flow.predicted(sequence, acknowledgment, window, payload, now)
        ):
            self._heard(connection, now)
            return True
        options = b"" if options_end == header_end else bytes(view[header_end:options_end])
        ports = connection.guest_port, connection.remote_port
        segment = tcp.Segment(*ports, sequence, acknowledgment, flags, window, options, payload)
        if flags == tcp.ACK and end == header_end and sequence == flow.incoming.expected:
            self._bare(connection, segment)
        else:
            self._segment(connection, segment, now)
        return True

    def _bare(self, connection: Connection, segment: tcp.Segment) -> None:
        """An acknowledgment alone waits for the next, which tells more; but how often the same is said counts."""
        earlier = connection.acknowledgment
        if earlier is None:
            self._acknowledged.append(connection)
        elif earlier.acknowledgment == segment.acknowledgment:
            connection.hand_on(time.monotonic())
        connection.acknowledgment = segment

    def _segment(self, connection: Connection, segment: tcp.Segment, now: float) -> None:
        connection.hand_on(now)
        connection.flow.segment(segment, now)
        self._heard(connection, now)

    def _heard(self, connection: Connection, now: float) -> None:
        """A flow has had a segment."""
        if connection.flow.ack_due:
            self._owed(connection, now)
        elif connection.flow.repeats:
            self._repeat_later(connection, now)
        self.touched(connection)

    def _owed(self, connection: Connection, now: float) -> None:
        """A flow has something to acknowledge: once for a batch of frames, and what is but a small piece waits for the
        answer, which carries it if it comes soon."""
        if connection.flow.ack_urgent:
            self._unacknowledged.append(connection)
            return
        self.poller.answer_expected = True
        if connection.ack_by > now + ACK_SECONDS:
            self._acknowledge_by(connection, now + ACK_SECONDS)

    def _repeat_later(self, connection: Connection, now: float) -> None:
        self._acknowledge_by(connection, now + REPEAT_SECONDS * 2 ** (tcp_flow.REPEATS - connection.flow.repeats))

    def _acknowledge_by(self, connection: Connection, until: float) -> None:
        connection.ack_by = until
        self._patient.add(connection)
        self._acks_due = min(self._acks_due, until)
        self.due = min(self.due, until)

    def flush(self) -> None:
        """After a batch of frames: one acknowledgment a flow. Of the guest's own the last of several in a row tells
        all."""
        if self._acknowledged:
            now = time.monotonic()
            for connection in self._acknowledged:
                if connection.acknowledgment is not None:
                    connection.hand_on(now)
                    self._heard(connection, now)
            self._acknowledged.clear()
        if self._unacknowledged:
            for connection in self._unacknowledged:
                connection.flow.flush_ack()
            self._unacknowledged.clear()

    def act(self, now: float) -> None:
        """At `due`, or any time: acknowledge what nothing has carried, and timers."""
        if now >= self._acks_due:
            self._acknowledge(now)
        timers = self._timers
        if timers and timers[0][0] <= now:
            self._look(now)
        self.due = min(self._acks_due, max(timers[0][0], now + TIMER_SECONDS) if timers else NEVER)

    def _acknowledge(self, now: float) -> None:
        for connection in self._patient:
            if connection.ack_by <= now:
                flow, connection.ack_by = connection.flow, NEVER
                if flow.ack_due or not flow.repeats:
                    flow.flush_ack()
                    continue
                flow.repeat_ack()
                if flow.repeats:
                    self._repeat_later(connection, now)
        self._patient = {connection for connection in self._patient if connection.ack_by != NEVER}
        self._acks_due = min((connection.ack_by for connection in self._patient), default=NEVER)

    def _open(self, endpoint: Endpoint, key: bytes, packet: Packet, segment: tcp.Segment, now: float) -> None:
        if endpoint.half_open >= MAX_HALF_OPEN:
            return  # the guest asks again, and there may be room then
        try:
            target = self._target(endpoint, packet.destination, segment.destination_port)
            if target is None or endpoint.flows >= self._max_flows:
                refuse(endpoint, packet, segment)
                return
            if isinstance(target, socket.socket):
                sock = target
            else:
                family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
                sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError:
            refuse(endpoint, packet, segment)
            return
        connection = Connection(
            self,
            endpoint,
            key,
            packet.destination,
            segment.destination_port,
            packet.source,
            segment.source_port,
            sock,
            now,
        )
        self._add(connection)
        connection.flow.accept(segment, now)
        try:
            if not isinstance(target, socket.socket):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._outbound is not None:
                    self._outbound.bind(sock, target[0])
                sock.connect(target)
        except BlockingIOError:
            pass
        except OSError as error:
            connection.refused(error.errno or errno.EIO)
            self.touched(connection)
            return
        connection.watch()

    # ------------------------------------------------------------------------------------------------ from the host
    def connect(
        self, endpoint: Endpoint, sock: socket.socket, source: bytes, port: int, guest_port: int
    ) -> Connection | None:
        """A connection that a published port has accepted, seen by the guest as from `source`:`port`. None: there is no
        room for it."""
        guest = endpoint.address_like(source)
        key, port = self._free_port(guest + source, guest_port, port) if guest else (b"", port)
        if not key or endpoint.flows >= self._max_flows:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_LINGER)
            sock.close()
            return None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_near(sock)
        now = time.monotonic()
        connection = Connection(self, endpoint, key, source, port, guest, guest_port, sock, now)
        self._add(connection)
        connection.watch()
        connection.flow.connect(now)
        self.touched(connection)
        return connection

    def _free_port(self, addresses: bytes, guest_port: int, port: int) -> tuple[bytes, int]:
        """The client's own port, or one near it: clients of several loopback addresses are one host to the guest."""
        for step in range(64):
            candidate = (port + step) % 65536 or 1
            key = addresses + struct.pack("!HH", guest_port, candidate)
            known = self._by_key.get(key)
            if known is not None and known.flow.state in _ENDED:
                self._drop(known)
                known = None
            if known is None:
                return key, candidate
        return b"", port

    # ------------------------------------------------------------------------------------------------ bookkeeping
    def _add(self, connection: Connection) -> None:
        self._by_key[connection.key] = connection
        connection.endpoint.flows += 1
        connection.endpoint.half_open += 1
        self._half_open.add(connection)

    def _drop(self, connection: Connection) -> None:
        if self._by_key.get(connection.key) is connection:
            del self._by_key[connection.key]
            if connection in self._lingering:
                del self._lingering[connection]
            else:
                connection.endpoint.flows -= 1
        self._whole(connection)
        connection.looked_at = NEVER
        self._patient.discard(connection)
        connection.acknowledgment = None
        connection.close(reset=False)

    def _whole(self, connection: Connection) -> None:
        """It is not half open any more."""
        if connection in self._half_open:
            self._half_open.discard(connection)
            connection.endpoint.half_open -= 1

    def touched(self, connection: Connection) -> None:
        """After anything has happened to a flow."""
        flow = connection.flow
        if self._half_open and flow.state not in _HALF_OPEN:
            self._whole(connection)
        timer = flow.outgoing.timer
        if timer != NEVER:
            if timer < connection.looked_at:
                connection.looked_at = timer
                heapq.heappush(self._timers, (timer, next(self._numbers), connection))
                self.due = min(self.due, timer)
            if flow.state == tcp_flow.LINGERING and connection not in self._lingering:
                self._lingering[connection] = None
                connection.endpoint.flows -= 1
                if len(self._lingering) > MAX_LINGERING:
                    self._drop(next(iter(self._lingering)))
        elif flow.state == tcp_flow.CLOSED:
            self._drop(connection)

    def _look(self, now: float) -> None:
        """At the timers that may be due."""
        due = []
        while self._timers and self._timers[0][0] <= now:
            due.append(heapq.heappop(self._timers))
        for at, _, connection in due:
            if at == connection.looked_at:
                connection.looked_at = NEVER
                connection.flow.tick(now)
                self.touched(connection)

    def tick(self, now: float) -> None:
        """Rarely: flows that were left half-closed."""
        if now >= self._next_reap:
            self._next_reap = now + 60
            for connection in list(self._by_key.values()):
                flow = connection.flow
                if flow.half_closed and now - flow.last_used > HALF_CLOSED_SECONDS:
                    flow.abort()
                    self.touched(connection)

    def forget(self, endpoint: Endpoint) -> None:
        """The guest has gone."""
        for connection in [c for c in self._by_key.values() if c.endpoint is endpoint]:
            connection.close(reset=True)
            self._drop(connection)
        self._unacknowledged = [c for c in self._unacknowledged if c.endpoint is not endpoint]


def refuse(endpoint: Endpoint, packet: Packet, segment: tcp.Segment) -> None:
    """RST for what belongs to no connection (RFC 9293 3.5.2)."""
    length = len(segment.payload) + bool(segment.flags & tcp.SYN) + bool(segment.flags & tcp.FIN)
    if segment.flags & tcp.ACK:
        sequence, acknowledgment, flags = segment.acknowledgment, 0, tcp.RST
    else:
        sequence, acknowledgment, flags = 0, (segment.sequence + length) & 0xFFFFFFFF, tcp.RST | tcp.ACK
    ports = segment.destination_port, segment.source_port
    plain = tcp.emit_header(*ports, sequence, acknowledgment, flags, 0)
    total = pseudo_sum(packet.destination, packet.source, TCP, len(plain))
    done = tcp.emit_header(*ports, sequence, acknowledgment, flags, 0, checksum=checksum(plain, total))
    endpoint.send(packet.destination, packet.source, TCP, done)
