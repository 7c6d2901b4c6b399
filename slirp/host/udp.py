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
from slirp.wire import icmp, icmpv6, udp
from slirp.wire.ip import TTL, UDP, Packet

MAX_MAPPINGS = 512  # of one guest
IDLE_SECONDS = 120.0  # RFC 4787 4.3: two minutes at least
MAX_PEERS = 10_000  # of one published port
MAX_ASKED = 4096  # addresses a mapping remembers
BATCH = 32
IP_PKTINFO, IP_RECVERR, IPV6_RECVERR = 8, 11, 25  # include/uapi/linux/in.h, in6.h
_EXTENDED_ERROR = struct.Struct("IBBBBII")  # struct sock_extended_err
_FROM_ICMP, _FROM_ICMP6 = 2, 3
_ICMP6_CODES = {0: icmp.NET_UNREACHABLE, 1: icmp.ADMINISTRATIVELY_PROHIBITED, 4: icmp.PORT_UNREACHABLE}  # RFC 7915 5.2


class _Mapping:
    """One guest port and its socket."""

    def __init__(self, endpoint: Endpoint, guest: bytes, port: int, sock: socket.socket, now: float) -> None:
        self.endpoint, self.guest, self.port, self.socket, self.last_used = endpoint, guest, port, sock, now
        self.asked: set[str] = set()  # addresses sent to


class _Peer:
    """A client of a published port: answers leave from the address that it has asked."""

    __slots__ = ("_address", "_from", "socket")

    def __init__(self, sock: socket.socket, address: tuple[str, int], asked_at: list[tuple[int, int, bytes]]) -> None:
        self.socket, self._address, self._from = sock, address, asked_at

    def answer(self, payload: memoryview) -> None:
        for _ in range(2):  # a pending error is reported by the next call, whatever that sends
            try:
                self.socket.sendmsg([payload], self._from, 0, self._address)
                return
            except OSError:
                continue


class Datagrams:
    """`target(address, port)` gives where a datagram really goes, None to refuse it; `source(endpoint, address)` gives
    how the guest sees a sender."""

    def __init__(
        self,
        poller: Poller,
        target: Callable[[bytes, int], tuple[str, int] | None],
        source: Callable[[Endpoint, str], bytes],
    ) -> None:
        self._poller, self._target, self._source = poller, target, source
        self._mappings: dict[tuple[bytes, int], _Mapping] = {}
        # (guest, its port) -> (peer, its port) -> the published socket it has used, its address there, and ours
        self._peers: dict[tuple[bytes, int], dict[tuple[bytes, int], _Peer]] = {}
        self._next_reap = 0.0

    def packet(self, endpoint: Endpoint, packet: Packet, datagram: udp.Datagram) -> None:
        """A datagram of a guest to the outside."""
        port = datagram.source_port
        if self._peers and (peers := self._peers.get((packet.source, port))) is not None:
            peer = peers.get((packet.destination, datagram.destination_port))
            if peer is not None:
                peer.answer(datagram.payload)
                return
        target = self._target(packet.destination, datagram.destination_port)
        if target is None:
            endpoint.send_unreachable(icmp.ADMINISTRATIVELY_PROHIBITED, packet)
            return
        mapping = self._mappings.get((packet.source, port)) or self._map(endpoint, packet.source, port)
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

    def is_answer(self, packet: Packet, datagram: udp.Datagram) -> bool:
        """Whether this goes to a client of a published port."""
        peers = self._peers.get((packet.source, datagram.source_port), {})
        return (packet.destination, datagram.destination_port) in peers

    def _map(self, endpoint: Endpoint, guest: bytes, port: int) -> _Mapping | None:
        if endpoint.datagrams >= MAX_MAPPINGS:
            return None
        try:
            family = socket.AF_INET if len(guest) == 4 else socket.AF_INET6
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            if family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(("", 0))
        except OSError:
            return None
        mapping = self._mappings[guest, port] = _Mapping(endpoint, guest, port, sock, time.monotonic())
        endpoint.datagrams += 1
        self._poller.add(sock.fileno(), READ, lambda events: self._ready(mapping, events))
        return mapping

    def _ready(self, mapping: _Mapping, events: int) -> None:
        if events & FAILED:
            self._failures(mapping)
        for _ in range(BATCH):
            try:
                data, address = mapping.socket.recvfrom(65535)
            except OSError:
                return
            if address[0] in mapping.asked:
                mapping.last_used = time.monotonic()
                source = self._source(mapping.endpoint, address[0])
                mapping.endpoint.send_udp(source, address[1], mapping.guest, mapping.port, data)

    def _failures(self, mapping: _Mapping) -> None:
        """ICMP errors that the host got for datagrams of this mapping."""
        for _ in range(BATCH):
            try:
                data, ancillary, _, name = mapping.socket.recvmsg(512, 512, socket.MSG_ERRQUEUE)
            except OSError:
                return
            for level, kind, payload in ancillary:
                if (level, kind) in _ERRORS and len(payload) >= _EXTENDED_ERROR.size and name:
                    _, origin, icmp_type, code, _, info, _ = _EXTENDED_ERROR.unpack_from(payload)
                    found = _ipv4_code(origin, icmp_type, code)
                    if found is not None:
                        self._tell(mapping, name, found, info, data)

    def _tell(self, mapping: _Mapping, target: tuple[str, int], code: int, mtu: int, data: bytes) -> None:
        remote, port = self._source(mapping.endpoint, target[0]), target[1]
        head = udp.HEADER.pack(mapping.port, port, udp.HEADER_BYTES + len(data), 0)
        lost = Packet(mapping.guest, remote, UDP, TTL, 0, 0, memoryview(head + data))
        mapping.endpoint.send_unreachable(code, lost, mtu if mtu <= 0xFFFF else 0)

    # ------------------------------------------------------------------------------------------------ published ports
    def publish(self, endpoint: Endpoint, guest_port: int, sock: socket.socket) -> None:
        """Datagrams to this socket go to the guest's port, with their real source; answers go out of it."""
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        self._poller.add(sock.fileno(), READ, lambda _: self._published_ready(endpoint, guest_port, sock))

    def unpublish(self, endpoint: Endpoint, guest_port: int, sock: socket.socket) -> None:
        self._poller.remove(sock.fileno())
        for guest, peers in list(self._peers.items()):
            kept = {key: peer for key, peer in peers.items() if peer.socket is not sock}
            if kept:
                self._peers[guest] = kept
            else:
                del self._peers[guest]

    def _published_ready(self, endpoint: Endpoint, guest_port: int, sock: socket.socket) -> None:
        for _ in range(BATCH):
            try:
                data, ancillary, _, address = sock.recvmsg(65535, 64)
            except OSError:
                return
            remote = self._source(endpoint, address[0])
            guest = endpoint.address_like(remote)
            if not guest:
                continue
            peers = self._peers.setdefault((guest, guest_port), {})
            key = remote, address[1]
            peers.pop(key, None)  # the one heard of longest ago is the first to be forgotten
            if len(peers) >= MAX_PEERS:
                del peers[next(iter(peers))]
            peers[key] = _Peer(sock, address, _asked_at(ancillary))
            endpoint.send_udp(remote, address[1], guest, guest_port, data)

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


def _asked_at(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """The ancillary data that makes an answer leave from where the question came to (ip(7), ipv6(7))."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            return [(level, kind, bytes(4) + data[4:8] + bytes(4))]
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            link_local = data[0] == 0xFE and data[1] & 0xC0 == 0x80
            return [(level, kind, data if link_local else data[:16] + bytes(4))]
    return []


_ERRORS = ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR))


def _ipv4_code(origin: int, icmp_type: int, code: int) -> int | None:
    """The code of "unreachable", in IPv4's words, that an error of the host's socket means to the guest."""
    if origin == _FROM_ICMP:
        return code if icmp_type == icmp.UNREACHABLE else None
    if origin == _FROM_ICMP6:
        if icmp_type == icmpv6.PACKET_TOO_BIG:
            return icmp.FRAGMENTATION_NEEDED
        if icmp_type == icmpv6.UNREACHABLE:
            return _ICMP6_CODES.get(code, icmp.HOST_UNREACHABLE)
    return None


def _send(sock: socket.socket, payload: memoryview, target: tuple[str, int]) -> int:
    """0, or the errno. A pending ICMP error is reported by the next call whatever it sends: then once more."""
    for _ in range(2):
        try:
            sock.sendto(payload, target)
            return 0
        except OSError as error:
            number = error.errno or errno.EIO
    return number
