"""One TCP connection: a flow, the host's socket on one side of it and frames to the guest on the other.

What the flow does is decided in `stack.tcp_flow`; which connections there are is `tcp`'s affair, which makes them."""

from __future__ import annotations

import errno
import hashlib
import secrets
import socket
import struct
import time
from typing import Protocol

from slirp.host.endpoint import Endpoint
from slirp.host.poller import ERROR, FAILED, READ, WRITE, Poller
from slirp.stack import tcp_flow
from slirp.stack.outgoing import SMALL_BYTES
from slirp.stack.recovery import NEVER
from slirp.stack.sides import HostReset
from slirp.stack.tcp_flow import Flow
from slirp.wire import icmp, tcp, virtio
from slirp.wire.checksum import fold, ones_sum
from slirp.wire.ip import TCP, TTL, Packet

NEAR_BYTES = (
    1 << 20
)  # of the receive buffer of a socket connected to this machine; the kernel's limit is 6 MiB and more
RESET_LINGER, NO_LINGER = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)
_SECRET = secrets.token_bytes(16)  # of the launcher that forks us: every network of a user has the same
_HEADERS4 = struct.Struct("!BBHHHBBH4s4sHH")  # of IPv4, and TCP's ports
_HEADERS6 = struct.Struct("!IHBB16s16sHH")
_NUMBERS = struct.Struct("!IIBBHHH")  # the rest of TCP's
_TCP_START4, _TCP_START6 = 14 + 20, 14 + 40
_CHECKSUM_OFFSET = 16
_UNREACHABLE = {  # what connect(2) says -> what a router would have said (RFC 792, RFC 1812 5.2.7.1)
    errno.ENETUNREACH: icmp.NET_UNREACHABLE,
    errno.EHOSTUNREACH: icmp.HOST_UNREACHABLE,
    errno.ETIMEDOUT: icmp.HOST_UNREACHABLE,
    errno.EACCES: icmp.ADMINISTRATIVELY_PROHIBITED,
    errno.EPERM: icmp.ADMINISTRATIVELY_PROHIBITED,
}


class Owner(Protocol):
    """Who has all connections of a network."""

    poller: Poller

    def touched(self, connection: Connection) -> None:
        """Something has happened to this one."""


class Connection:
    """Both sides of a flow: the socket and the way to the guest. Implements `sides.Host` and `sides.Guest`."""

    __slots__ = (
        "_address_sum",
        "_connections",
        "_events",
        "_head",
        "_mss",
        "_partial_sum",
        "_socket",
        "_tcp_bytes",
        "_watched",
        "ack_by",
        "acknowledgment",
        "endpoint",
        "flow",
        "guest",
        "guest_port",
        "key",
        "looked_at",
        "remote",
        "remote_port",
    )

    def __init__(
        self,
        connections: Owner,
        endpoint: Endpoint,
        key: bytes,
        remote: bytes,
        remote_port: int,
        guest: bytes,
        guest_port: int,
        sock: socket.socket,
        now: float,
    ) -> None:
        self._connections = connections
        self._socket: socket.socket | None = sock
        # when we are killed, the kernel's close must not look like the end of the data
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_LINGER)
        self._events = 0
        self._watched = False  # not before connect(2): an unconnected socket is always ready
        self.acknowledgment: tcp.Segment | None = None  # a bare one of the guest's that the flow has not heard of yet
        self.ack_by = NEVER  # until when ours may wait
        self.looked_at = NEVER  # when its timer is looked at next
        self.endpoint, self.key = endpoint, key
        self.remote, self.remote_port, self.guest, self.guest_port = remote, remote_port, guest, guest_port
        self._address_sum = ones_sum(remote + guest)
        self._mss = 0
        self._tcp_bytes, self._head, self._partial_sum = 0, b"", 0
        overhead = (_HEADERS4.size if len(guest) == 4 else _HEADERS6.size) + _NUMBERS.size
        self.flow = Flow(self, self, endpoint.buffers, endpoint.mtu - overhead, _first_sequence(key, now), now)

    def hand_on(self, now: float) -> None:
        """The guest's bare acknowledgment that waits, if one does."""
        if self.acknowledgment is not None:
            segment, self.acknowledgment = self.acknowledgment, None
            self.flow.segment(segment, now)

    def _made_head(self, tcp_bytes: int, mss: int) -> tuple[bytes, int]:
        """What stands before the sequence number of a segment of this size, and what goes in place of its checksum: the
        pseudo header's sum alone, as the device's offload does the rest. Segments in a row often have one size."""
        ports = self.remote_port, self.guest_port
        if len(self.guest) == 4:
            start, kind, head, total = _TCP_START4, virtio.GSO_TCPV4, self.endpoint.head4, 20 + tcp_bytes
            # RFC 1071: the header's sum from its parts; 0x4500 version and length, 0x4000 DF, 0x4006 TTL and protocol
            header_sum = ~fold(self._address_sum + 0x4500 + total + 0x4000 + 0x4006) & 0xFFFF
            addresses = self.remote, self.guest
            headers = _HEADERS4.pack(0x45, 0, total, 0, 0x4000, TTL, TCP, header_sum, *addresses, *ports)
        else:
            start, kind, head = _TCP_START6, virtio.GSO_TCPV6, self.endpoint.head6
            headers = _HEADERS6.pack(6 << 28, tcp_bytes, TCP, TTL, self.remote, self.guest, *ports)
        if tcp_bytes > tcp.HEADER_BYTES + mss:  # options come with small segments alone
            offload = virtio.segmented(kind, start + tcp.HEADER_BYTES, mss, start, _CHECKSUM_OFFSET)
        else:
            offload = virtio.partial(start, _CHECKSUM_OFFSET)
        return offload + head[virtio.HEADER_BYTES :] + headers, fold(self._address_sum + TCP + tcp_bytes)

    # ------------------------------------------------------------------------------------------------ the guest's side
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
        length = len(payload)
        tcp_bytes = 20 + len(options) + length
        if tcp_bytes != self._tcp_bytes or mss != self._mss:
            self._tcp_bytes, self._mss = tcp_bytes, mss
            self._head, self._partial_sum = self._made_head(tcp_bytes, mss)
        offset = (20 + len(options)) << 2
        head = self._head + _NUMBERS.pack(sequence, acknowledgment, offset, flags, window, self._partial_sum, 0)
        if options:
            head += options
        self.ack_by = NEVER
        try:
            if not length:
                self.endpoint.writev((head,))
            elif length > SMALL_BYTES:
                self.endpoint.writev((head, payload))
            else:
                self.endpoint.writev((head + payload,))
                self.endpoint.has_asked = False
                self._connections.poller.answer_expected = True
        except OSError as error:  # others: it is lost
            return error.errno not in (errno.EAGAIN, errno.ENOBUFS)
        return True

    # ------------------------------------------------------------------------------------------------ the host's side
    def read_into(self, views: list[memoryview]) -> int | None:
        try:
            if len(views) > 1:
                return self._socket.recvmsg_into(views)[0]  # type: ignore[union-attr]
            return self._socket.recv_into(views[0])  # type: ignore[union-attr]
        except BlockingIOError:
            return None
        except (OSError, AttributeError) as error:
            raise HostReset(str(error)) from error

    def write(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data)  # type: ignore[union-attr]
        except BlockingIOError:
            return 0
        except (OSError, AttributeError) as error:
            raise HostReset(str(error)) from error

    def finish(self) -> None:
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:
                return  # it has failed: reading will say so

    def close(self, reset: bool) -> None:
        if self._socket is None:
            return
        if not reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self._unwatch()
        self._socket.close()
        self._socket = None

    def want(self, read: bool, write: bool) -> None:
        events = (READ if read else 0) | (WRITE if write else 0)
        if events != self._events:
            self._events = events
            if self._watched and self._socket is not None:
                self.endpoint.sockets.change(self._socket.fileno(), events)

    def watch(self) -> None:
        if self._socket is not None:
            self._watched = True
            self.endpoint.sockets.add(self._socket.fileno(), self._events, self.ready)

    def _unwatch(self) -> None:
        if self._watched and self._socket is not None:
            self._watched = False
            self.endpoint.sockets.remove(self._socket.fileno())

    def refused(self, number: int) -> None:
        """connect(2) has failed with this errno."""
        code = _UNREACHABLE.get(number)
        if code is None:
            self.flow.host_refused()
            return
        sequence = (self.flow.incoming.expected - 1) & 0xFFFFFFFF  # of the guest's SYN, by which it knows it again
        syn = tcp.emit_header(self.guest_port, self.remote_port, sequence, 0, tcp.SYN, 0)
        self.flow.host_unreachable()
        self.endpoint.send_unreachable(code, Packet(self.guest, self.remote, TCP, TTL, 0, 0, memoryview(syn)))

    def ready(self, events: int) -> None:
        """The socket's turn."""
        now = time.monotonic()
        flow = self.flow
        if events == READ and flow.state == tcp_flow.OPEN:
            flow.host_readable(now, self.endpoint.sockets.pieces)
        elif flow.state == tcp_flow.CONNECTING:
            failure = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if self._socket else errno.EPIPE
            if failure:
                self.refused(failure)
            elif events & WRITE:
                keep_near(self._socket)
                flow.host_connected(now)
        else:
            if events & WRITE:
                flow.host_writable(now)
            if events & READ or (events & FAILED and not flow.outgoing.host_ended):
                flow.host_readable(now, self.endpoint.sockets.pieces)
            elif events & ERROR:
                flow.abort()
            elif events & FAILED:  # both ways have ended, which would be reported for ever; the guest may not know yet
                self._unwatch()
        self._connections.touched(self)


def keep_near(sock: socket.socket | None) -> None:
    """A connection within this machine needs no room for what is on the way, and what waits in memory for long is in no
    cache any more when it is read."""
    if sock is None or sock.family == socket.AF_UNIX:  # that of the resolver
        return
    try:
        if sock.getsockname()[0] == sock.getpeername()[0]:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NEAR_BYTES)
    except OSError:
        return  # it has ended, and reading says so


def _first_sequence(key: bytes, now: float) -> int:
    """RFC 6528: ever higher on the same addresses and ports, so that a guest in TIME_WAIT takes the new connection."""
    offset = hashlib.blake2b(key, digest_size=4, key=_SECRET).digest()
    return (int(now * 250_000) + int.from_bytes(offset, "big")) & 0xFFFFFFFF  # a step each 4 microseconds
