"""TCP of one network: guests' connections to the host's sockets, and published ports' to guests.

Owns the connections (`connection`); what a flow does is decided in `stack.tcp_flow`. Called by `router` with packets
and by the poller with sockets."""

from __future__ import annotations

import errno
import resource
import socket
import struct
import time
from collections.abc import Callable

from slirp.host.connection import RESET_LINGER, Connection
from slirp.host.endpoint import Endpoint
from slirp.host.outbound import Outbound
from slirp.host.poller import Poller
from slirp.stack import tcp_flow
from slirp.stack.recovery import NEVER
from slirp.wire import tcp, virtio
from slirp.wire.checksum import checksum, pseudo_sum
from slirp.wire.ip import TCP, Packet

FLOWS_SHARE = 0.75  # of the descriptors the process may have, for one guest: its neighbours find some left
MAX_HALF_OPEN = 1024  # of one guest
MAX_LINGERING = 1024  # of one network; who is over takes no room from who is not
HALF_CLOSED_SECONDS = 900.0
ACK_SECONDS = 0.001  # how long an acknowledgment may wait; RFC 9293 3.8.6.3 allows 0.5
TIMER_SECONDS, VISIT_SECONDS = 0.001, 1e-5  # between two looks at timers, at least; and for each timer
_KIND = virtio.HEADER_BYTES + 12  # of a frame with its virtio header: where the Ethernet type is
_IP = virtio.HEADER_BYTES + 14
_SIMPLE4, _SIMPLE6 = b"\x08\x00\x45", b"\x86\xdd"  # IPv4 without options, IPv6
_PORTS_AND_REST = struct.Struct("!HHIIBBH")  # a TCP header up to its window
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
        self._timed: set[Connection] = set()
        self._next_timer = NEVER  # not after the first of theirs
        self._lingering: dict[Connection, None] = {}  # in the order they ended
        self._half_open: set[Connection] = set()
        self._acknowledged: list[Connection] = []  # by bare acknowledgments of this batch
        self._unacknowledged: list[Connection] = []
        self._patient: list[Connection] = []  # acknowledgments that wait for data to carry them
        self._patient_until = 0.0
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
        if frame[_KIND : _KIND + 3] == _SIMPLE4:
            start = _IP + 20
            if frame[_IP + 9] != TCP or frame[_IP + 6] & 0x3F or frame[_IP + 7] or length < start + tcp.HEADER_BYTES:
                return False
            end = _IP + (frame[_IP + 2] << 8 | frame[_IP + 3])
            connection = self._by_key.get(bytes(view[_IP + 12 : start + 4]))  # addresses and ports stand side by side
            if connection is None or int.from_bytes(view[_IP:start], "big") % 0xFFFF:
                return False
        elif frame[_KIND : _KIND + 2] == _SIMPLE6:
            start = _IP + 40
            if frame[_IP + 6] != TCP or frame[_IP] >> 4 != 6 or length < start + tcp.HEADER_BYTES:
                return False
            end = start + (frame[_IP + 4] << 8 | frame[_IP + 5])
            connection = self._by_key.get(bytes(view[_IP + 8 : start + 4]))
            if connection is None:
                return False
        else:
            return False
        fields = _PORTS_AND_REST.unpack_from(view, start)
        source_port, destination_port, sequence, acknowledgment, offset, flags, window = fields
        options_end = start + (offset >> 4) * 4
        if (
            connection.endpoint is not endpoint
            or flags & (tcp.SYN | tcp.RST)
            or not frame[0] & _CHECKSUM_KNOWN
            or not start + tcp.HEADER_BYTES <= options_end <= end <= length
        ):
            return False
        payload = view[options_end:end]
        header_end = start + tcp.HEADER_BYTES
        options = b"" if options_end == header_end else bytes(view[header_end:options_end])
        segment = tcp.Segment(source_port, destination_port, sequence, acknowledgment, flags, window, options, payload)
        if end == options_end and flags == tcp.ACK and not options and sequence == connection.flow.receive_next:
            earlier, connection.acknowledgment = connection.acknowledgment, segment
            if earlier is None:
                self._acknowledged.append(connection)
            elif earlier.acknowledgment == acknowledgment:
                connection.flow.segment(earlier, time.monotonic())  # how often it is said counts
        else:
            self._segment(connection, segment, time.monotonic())
        return True

    def _segment(self, connection: Connection, segment: tcp.Segment, now: float) -> None:
        flow = connection.flow
        if connection.acknowledgment is not None:
            acknowledgment, connection.acknowledgment = connection.acknowledgment, None
            flow.segment(acknowledgment, now)
        flow.segment(segment, now)
        if flow.ack_due:
            self._unacknowledged.append(connection)
        self.touched(connection)

    def flush(self) -> None:
        """After a batch of frames: one acknowledgment a flow. One for a small piece waits for the answer, which carries
        it if it comes soon. Of the guest's own the last of several in a row tells all."""
        if self._acknowledged:
            now = time.monotonic()
            for connection in self._acknowledged:
                segment = connection.acknowledgment
                if segment is not None:
                    connection.acknowledgment = None
                    self._segment(connection, segment, now)
            self._acknowledged.clear()
        if self._unacknowledged:
            for connection in self._unacknowledged:
                if connection.flow.ack_urgent:
                    connection.flow.flush_ack()
                elif connection.flow.ack_due:
                    if not self._patient:
                        self._patient_until = time.monotonic() + ACK_SECONDS
                    self._patient.append(connection)
                    self.poller.answer_expected = True
            self._unacknowledged.clear()

    def patience_seconds(self, now: float) -> float:
        """Within which `answer` and `timers` should be called."""
        if self._patient:
            return ACK_SECONDS
        return max(0.0, self._next_timer - now)

    def answer(self, now: float) -> None:
        """Acknowledge what nothing has carried."""
        if now >= self._patient_until:
            for connection in self._patient:
                connection.flow.flush_ack()
            self._patient.clear()

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
    def connect(self, endpoint: Endpoint, sock: socket.socket, source: bytes, port: int, guest_port: int) -> None:
        """A connection that a published port has accepted, seen by the guest as from `source`:`port`."""
        guest = endpoint.address_like(source)
        key, port = self._free_port(guest + source, guest_port, port) if guest else (b"", port)
        if not key or endpoint.flows >= self._max_flows:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_LINGER)
            sock.close()
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        now = time.monotonic()
        connection = Connection(self, endpoint, key, source, port, guest, guest_port, sock, now)
        self._add(connection)
        connection.watch()
        connection.flow.connect(now)
        self.touched(connection)

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
        self._timed.discard(connection)
        connection.acknowledgment = None
        connection.close(reset=False)

    def _whole(self, connection: Connection) -> None:
        """It is not half open any more."""
        if connection in self._half_open:
            self._half_open.discard(connection)
            connection.endpoint.half_open -= 1

    def touched(self, connection: Connection) -> None:
        """After anything has happened to a flow."""
        if self._half_open and connection.flow.state not in _HALF_OPEN:
            self._whole(connection)
        timer = connection.flow.timer
        if timer != NEVER:
            self._timed.add(connection)
            if timer < self._next_timer:
                self._next_timer = timer
            if connection.flow.state == tcp_flow.LINGERING and connection not in self._lingering:
                self._lingering[connection] = None
                connection.endpoint.flows -= 1
                if len(self._lingering) > MAX_LINGERING:
                    self._drop(next(iter(self._lingering)))
        else:
            self._timed.discard(connection)
            if connection.flow.state == tcp_flow.CLOSED:
                self._drop(connection)

    def timers(self, now: float) -> None:
        """Those that are due."""
        if now < self._next_timer:
            return
        self._next_timer = NEVER
        for connection in list(self._timed):
            connection.flow.tick(now)
            self.touched(connection)
        self._next_timer = max(self._next_timer, now + TIMER_SECONDS, now + len(self._timed) * VISIT_SECONDS)

    def tick(self, now: float) -> None:
        """Rarely: flows that were left half-closed."""
        if now >= self._next_reap:
            self._next_reap = now + 60
            for connection in list(self._by_key.values()):
                flow = connection.flow
                half = flow.guest_ended != flow.host_ended
                if half and now - flow.last_used > HALF_CLOSED_SECONDS:
                    flow.abort()
                    self.touched(connection)

    def forget(self, endpoint: Endpoint) -> None:
        """The guest has gone."""
        for connection in [c for c in self._by_key.values() if c.endpoint is endpoint]:
            connection.close(reset=True)
            self._drop(connection)
        self._unacknowledged = [c for c in self._unacknowledged if c.endpoint is not endpoint]
        self._patient = [c for c in self._patient if c.endpoint is not endpoint]


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
