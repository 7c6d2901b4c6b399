"""UDP of one network: a socket of the host's for every port a guest sends from, and one for every published port.

A guest's port is one socket whatever it sends to (endpoint-independent mapping, RFC 4787 4.1). It takes datagrams from
every address it has sent to (address-dependent filtering, 5) and keeps their real source. What the host is told about
lost datagrams (IP_RECVERR) becomes ICMP for the guest."""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Callable

from slirp.host.endpoint import Endpoint
from slirp.host.poller import FAILED, READ, Poller
from slirp.wire import icmp, ipv4, udp

MAX_MAPPINGS = 512  # of one guest
IDLE_SECONDS = 120.0  # RFC 4787 4.3: two minutes at least
MAX_ASKED = 4096  # addresses a mapping remembers
BATCH = 32
IP_RECVERR = 11  # include/uapi/linux/in.h
_EXTENDED_ERROR = struct.Struct("IBBBBII")  # struct sock_extended_err
_FROM_ICMP = 2
Source = tuple[bytes, int]


class _Mapping:
    """One guest port and its socket."""

    def __init__(self, endpoint: Endpoint, port: int, sock: socket.socket, now: float) -> None:
        self.endpoint, self.port, self.socket, self.last_used = endpoint, port, sock, now
        self.asked: set[str] = set()  # addresses sent to


class Datagrams:
    """`target(address, port)` gives where a datagram really goes, None to refuse it; `source(address)` gives how the
    guest sees a sender."""

    def __init__(
        self,
        poller: Poller,
        target: Callable[[bytes, int], tuple[str, int] | None],
        source: Callable[[str], bytes],
    ) -> None:
        self._poller, self._target, self._source = poller, target, source
        self._mappings: dict[tuple[bytes, int], _Mapping] = {}
        self._published: dict[tuple[bytes, int], socket.socket] = {}  # (guest, port) -> the host's socket it answers on
        self._peers: dict[tuple[bytes, int, bytes, int], tuple[str, int]] = {}
        self._next_reap = 0.0

    def packet(self, endpoint: Endpoint, packet: ipv4.Packet, datagram: udp.Datagram) -> None:
        """A datagram of a guest to the outside."""
        port = datagram.source_port
        published = self._published.get((endpoint.address, port))
        if published is not None:
            peer = self._peers.get((endpoint.address, port, packet.destination, datagram.destination_port))
            if peer is not None:
                _send(published, datagram.payload, peer)
                return
        target = self._target(packet.destination, datagram.destination_port)
        if target is None:
            endpoint.send_unreachable(icmp.ADMINISTRATIVELY_PROHIBITED, packet)
            return
        mapping = self._mappings.get((endpoint.address, port)) or self._map(endpoint, port)
        if mapping is None:
            endpoint.send_unreachable(icmp.HOST_UNREACHABLE, packet)
            return
        mapping.last_used = time.monotonic()
        if target[0] not in mapping.asked:
            if len(mapping.asked) >= MAX_ASKED:
                mapping.asked.clear()
            mapping.asked.add(target[0])
        failure = _send(mapping.socket, datagram.payload, target)
        if failure in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            endpoint.send_unreachable(icmp.HOST_UNREACHABLE, packet)

    def _map(self, endpoint: Endpoint, port: int) -> _Mapping | None:
        if endpoint.datagrams >= MAX_MAPPINGS:
            return None
        try:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            sock.bind(("0.0.0.0", 0))
        except OSError:
            return None
        mapping = self._mappings[endpoint.address, port] = _Mapping(endpoint, port, sock, time.monotonic())
        endpoint.datagrams += 1
        self._poller.add(sock.fileno(), READ, lambda events: self._ready(mapping, events))
        return mapping

    def _ready(self, mapping: _Mapping, events: int) -> None:
        if events & FAILED:
            self._failures(mapping)
        for _ in range(BATCH):
            try:
                data, (host, port) = mapping.socket.recvfrom(65535)
            except OSError:
                return
            if host in mapping.asked:
                mapping.last_used = time.monotonic()
                mapping.endpoint.send_udp(self._source(host), port, mapping.port, data)

    def _failures(self, mapping: _Mapping) -> None:
        """ICMP errors that the host got for datagrams of this mapping."""
        for _ in range(BATCH):
            try:
                data, ancillary, _, name = mapping.socket.recvmsg(512, 512, socket.MSG_ERRQUEUE)
            except OSError:
                return
            for level, kind, payload in ancillary:
                if (level, kind) == (socket.IPPROTO_IP, IP_RECVERR) and len(payload) >= _EXTENDED_ERROR.size:
                    _, origin, icmp_type, code, *_ = _EXTENDED_ERROR.unpack_from(payload)
                    if origin == _FROM_ICMP and icmp_type == icmp.UNREACHABLE and name:
                        self._tell(mapping, self._source(name[0]), name[1], code, len(data))

    def _tell(self, mapping: _Mapping, remote: bytes, port: int, code: int, length: int) -> None:
        guest = mapping.endpoint.address
        lost = ipv4.emit_header(guest, remote, ipv4.UDP, 8 + length) + struct.pack("!HHHH", mapping.port, port, 8, 0)
        mapping.endpoint.send_icmp(remote, icmp.unreachable(code, lost))

    # ------------------------------------------------------------------------------------------------ published ports
    def publish(self, endpoint: Endpoint, guest_port: int, sock: socket.socket) -> None:
        """Datagrams to this socket go to the guest's port, with their real source; answers go out of it."""
        self._published[endpoint.address, guest_port] = sock
        self._poller.add(sock.fileno(), READ, lambda _: self._published_ready(endpoint, guest_port, sock))

    def unpublish(self, endpoint: Endpoint, guest_port: int, sock: socket.socket) -> None:
        self._published.pop((endpoint.address, guest_port), None)
        self._poller.remove(sock.fileno())
        for key in [key for key in self._peers if key[:2] == (endpoint.address, guest_port)]:
            del self._peers[key]

    def _published_ready(self, endpoint: Endpoint, guest_port: int, sock: socket.socket) -> None:
        for _ in range(BATCH):
            try:
                data, peer = sock.recvfrom(65535)
            except OSError:
                return
            remote = self._source(peer[0])
            if len(self._peers) > 10_000:
                self._peers.pop(next(iter(self._peers)))
            self._peers[endpoint.address, guest_port, remote, peer[1]] = peer
            endpoint.send_udp(remote, peer[1], guest_port, data)

    # ------------------------------------------------------------------------------------------------ the end
    def tick(self, now: float) -> None:
        if now < self._next_reap:
            return
        self._next_reap = now + 10
        for key, mapping in list(self._mappings.items()):
            if now - mapping.last_used > IDLE_SECONDS:
                self._drop(key, mapping)

    def forget(self, endpoint: Endpoint) -> None:
        for key, mapping in list(self._mappings.items()):
            if mapping.endpoint is endpoint:
                self._drop(key, mapping)

    def _drop(self, key: tuple[bytes, int], mapping: _Mapping) -> None:
        del self._mappings[key]
        mapping.endpoint.datagrams -= 1
        self._poller.remove(mapping.socket.fileno())
        mapping.socket.close()


def _send(sock: socket.socket, payload: memoryview, target: tuple[str, int]) -> int:
    """0, or the errno. A pending ICMP error is reported by the next call whatever it sends: then once more."""
    for _ in range(2):
        try:
            sock.sendto(payload, target)
            return 0
        except OSError as error:
            number = error.errno or errno.EIO
    return number
