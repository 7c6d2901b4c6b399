"""UDP of one network: a socket of the host's for every port a guest sends from, and one for every published port.

A guest's port is one socket whatever it sends to (endpoint-independent mapping, RFC 4787 4.1). It takes datagrams from
every address it has sent to (address-dependent filtering, 5) and keeps their real source. What the host is told about
lost datagrams (IP_RECVERR) becomes ICMP for the guest.

Datagrams of one size from one place to one other, one after the other, travel together: out of a guest to the host's
socket with UDP_SEGMENT, and to the guest as one frame that its kernel cuts (USO), where the device can."""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from slirp.host import batches
from slirp.host.endpoint import Endpoint
from slirp.host.outbound import Outbound
from slirp.host.poller import FAILED, READ
from slirp.wire import icmp, icmpv6, udp, virtio
from slirp.wire.ip import TTL, UDP, Packet

MAX_MAPPINGS = 512  # of one guest
IDLE_SECONDS = 120.0  # RFC 4787 4.3: two minutes at least
MAX_ASKED = 4096  # addresses a mapping remembers
MAX_PEERS = 10_000  # of one published port
MAX_ROUTES = 4096
ROUNDS = 2  # of batches a socket may have before others get their turn
IP_PKTINFO, IP_RECVERR, IPV6_RECVERR = 8, 11, 25  # include/uapi/linux/in.h, in6.h
_EXTENDED_ERROR = struct.Struct("IBBBBII")  # struct sock_extended_err
_FROM_ICMP, _FROM_ICMP6 = 2, 3
_ICMP6_CODES = {0: icmp.NET_UNREACHABLE, 1: icmp.ADMINISTRATIVELY_PROHIBITED, 4: icmp.PORT_UNREACHABLE}  # RFC 7915 5.2
_ERRORS = ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR))
_KIND = virtio.HEADER_BYTES + 12  # of a frame with its virtio header: where the Ethernet type is
_IP = virtio.HEADER_BYTES + 14
_SIMPLE4, _SIMPLE6 = b"\x08\x00\x45", b"\x86\xdd"  # IPv4 without options, IPv6
_NAME_BYTES = {socket.AF_INET: 8, socket.AF_INET6: 24}  # of a sockaddr up to its address


class _Mapping:
    """One guest port and its socket. `asked`: the hosts sent to, as their sockets' addresses."""

    def __init__(self, endpoint: Endpoint, guest: bytes, port: int, sock: socket.socket, now: float) -> None:
        self.endpoint, self.guest, self.port, self.socket, self.last_used = endpoint, guest, port, sock, now
        self.name_bytes = _NAME_BYTES[sock.family]
        self.asked: dict[bytes, None] = {}
        self.senders: dict[bytes, tuple[bytes, int] | None] = {}  # raw name -> how the guest sees it; None: a stranger


@dataclass
class _Peer:
    """A client of a published port; `asked_at` makes answers leave from the address that it has asked."""

    socket: socket.socket
    address: tuple[str, int]
    asked_at: list[batches.Ancillary]
    last_used: float = field(compare=False)


class _Route:
    """Where datagrams with certain addresses and ports go: `mapping` is None for answers from a published port, which
    go to a `peer`."""

    __slots__ = ("ancillary", "endpoint", "mapping", "peer", "socket", "target")

    def __init__(
        self,
        endpoint: Endpoint,
        sock: socket.socket,
        target: tuple[str, int],
        mapping: _Mapping | None,
        ancillary: list[batches.Ancillary],
        peer: _Peer | None = None,
    ) -> None:
        self.endpoint, self.socket, self.target, self.mapping = endpoint, sock, target, mapping
        self.ancillary, self.peer = ancillary, peer


class Datagrams:
    """`target(address, port)` gives where a datagram really goes, None to refuse it; `source(endpoint, address)` gives
    how the guest sees a sender."""

    def __init__(
        self,
        target: Callable[[bytes, int], tuple[str, int] | None],
        source: Callable[[Endpoint, str], bytes],
        outbound: Outbound | None = None,
    ) -> None:
        self._target, self._source, self._outbound = target, source, outbound
        self._mappings: dict[tuple[bytes, int], _Mapping] = {}
        # (guest, its port) -> (peer, its port) -> the published socket it has used, its address there, and ours
        self._peers: dict[tuple[bytes, int], dict[tuple[bytes, int], _Peer]] = {}
        self._routes: dict[bytes, _Route] = {}  # by addresses and ports, as they stand in a packet
        self._received = batches.Received()
        # what waits to be sent together
        self._route: _Route | None = None
        self._parts: list[bytes] = []
        self._segment_bytes = self._waiting_bytes = 0
        self._next_reap = 0.0

    # ------------------------------------------------------------------------------------------------ from guests
    def packet(self, endpoint: Endpoint, packet: Packet, datagram: udp.Datagram, segment_bytes: int = 0) -> None:
        """A datagram of a guest to the outside; with `segment_bytes` many of that size. It is sent by `flush`, at the
        latest."""
        route = self._find(endpoint, packet, datagram)
        if route is not None:
            self._put(route, datagram.payload, segment_bytes)

    def known(self, endpoint: Endpoint, frame: bytearray, view: memoryview, length: int) -> bool:
        """A frame, with its virtio header, that may be a whole datagram on a way we know. False: it is something else,
        or not as simple; nothing has been done then."""
        if frame[_KIND : _KIND + 3] == _SIMPLE4:
            start = _IP + 20
            if frame[_IP + 9] != UDP or frame[_IP + 6] & 0x3F or frame[_IP + 7] or length < start + udp.HEADER_BYTES:
                return False
            route = self._routes.get(bytes(view[_IP + 12 : start + 4]))
            if route is None or int.from_bytes(view[_IP:start], "big") % 0xFFFF:
                return False
            end = _IP + (frame[_IP + 2] << 8 | frame[_IP + 3])
        elif frame[_KIND : _KIND + 2] == _SIMPLE6:
            start = _IP + 40
            if frame[_IP + 6] != UDP or frame[_IP] >> 4 != 6 or length < start + udp.HEADER_BYTES:
                return False
            route = self._routes.get(bytes(view[_IP + 8 : start + 4]))
            if route is None:
                return False
            end = start + (frame[_IP + 4] << 8 | frame[_IP + 5])
        else:
            return False
        bytes_said = frame[start + 4] << 8 | frame[start + 5]
        if (
            route.endpoint is not endpoint
            or not frame[0] & (virtio.NEEDS_CSUM | virtio.DATA_VALID)
            or not start + udp.HEADER_BYTES <= start + bytes_said <= end <= length
        ):
            return False
        self._put(route, view[start + udp.HEADER_BYTES : start + bytes_said], virtio.datagram_bytes(frame))
        return True

    def _put(self, route: _Route, payload: memoryview, segment_bytes: int) -> None:
        length = len(payload)
        if (
            route is not self._route
            or length > self._segment_bytes
            or not length  # nothing is no segment
            or segment_bytes
            or self._waiting_bytes + length > batches.MAX_BYTES
            or len(self._parts) >= batches.MAX_SEGMENTS
        ):
            self.flush()
            self._route, self._segment_bytes = route, segment_bytes or length
        self._parts.append(bytes(payload))
        self._waiting_bytes += length
        if length < self._segment_bytes or segment_bytes or not length:  # a shorter one is the last
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        route = self._route
        if route is None:
            return
        self._route = None
        parts, self._parts = self._parts, []
        many = self._waiting_bytes > self._segment_bytes
        self._waiting_bytes = 0
        failure = batches.send(route.socket, parts, self._segment_bytes if many else 0, route.target, route.ancillary)
        mapping = route.mapping
        if mapping is not None:
            mapping.last_used = time.monotonic()
            if failure in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                self._tell(mapping, route.target, icmp.HOST_UNREACHABLE, 0, parts[0][: self._segment_bytes])
        elif route.peer is not None:
            route.peer.last_used = time.monotonic()

    def _find(self, endpoint: Endpoint, packet: Packet, datagram: udp.Datagram) -> _Route | None:
        port, remote_port = datagram.source_port, datagram.destination_port
        peer = self._peers.get((packet.source, port), {}).get((packet.destination, remote_port))
        if peer is not None:
            route = _Route(endpoint, peer.socket, peer.address, None, peer.asked_at, peer)
        else:
            target = self._target(packet.destination, remote_port)
            if target is None:
                endpoint.send_unreachable(icmp.ADMINISTRATIVELY_PROHIBITED, packet)
                return None
            mapping = self._mappings.get((packet.source, port)) or self._map(endpoint, packet.source, port)
            if mapping is None:
                endpoint.send_unreachable(icmp.HOST_UNREACHABLE, packet)
                return None
            self._ask(mapping, target[0])
            route = _Route(endpoint, mapping.socket, target, mapping, [])
        if len(self._routes) >= MAX_ROUTES:
            self._routes.clear()
        ports = packet.payload[:4]
        self._routes[packet.source + packet.destination + ports] = route
        return route

    def _ask(self, mapping: _Mapping, host: str) -> None:
        address = socket.inet_pton(mapping.socket.family, host)
        if address not in mapping.asked:
            if len(mapping.asked) >= MAX_ASKED:
                del mapping.asked[next(iter(mapping.asked))]
            mapping.asked[address] = None
            mapping.senders.clear()

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
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # a burst must not be lost while we sleep
            sock.bind((self._outbound.address(family) if self._outbound is not None else "", 0))
        except OSError:
            return None
        mapping = self._mappings[guest, port] = _Mapping(endpoint, guest, port, sock, time.monotonic())
        endpoint.datagrams += 1
        endpoint.sockets.add(sock.fileno(), READ, lambda events: self._ready(mapping, events))
        return mapping

    # ------------------------------------------------------------------------------------------------ to guests
    def _ready(self, mapping: _Mapping, events: int) -> None:
        if events & FAILED:
            self._failures(mapping)
        endpoint, senders = mapping.endpoint, mapping.senders
        for _ in range(ROUNDS):
            count = 0
            run: list[memoryview] = []
            last: tuple[bytes, int] | None = None
            for name, payload in self._received.read(mapping.socket.fileno(), mapping.name_bytes):
                count += 1
                seen = senders[name] if name in senders else self._sender(mapping, name)
                size = len(run[0]) if run else 0
                if run and last and (seen != last or not 0 < len(payload) <= size or len(run[-1]) < size):
                    endpoint.send_datagrams(*last, mapping.guest, mapping.port, run)
                    run = []
                last = seen
                if seen is not None:
                    run.append(payload)
            if run and last is not None:
                endpoint.send_datagrams(*last, mapping.guest, mapping.port, run)
                mapping.last_used = time.monotonic()
            if count < batches.COUNT:
                return

    def _sender(self, mapping: _Mapping, name: bytes) -> tuple[bytes, int] | None:
        """How the guest sees who has sent; None for a stranger."""
        address = name[4:8] if len(name) == 8 else name[8:24]
        if len(mapping.senders) >= MAX_ASKED:
            mapping.senders.clear()
        seen = None
        if address in mapping.asked:
            text = socket.inet_ntop(mapping.socket.family, address)
            seen = self._source(mapping.endpoint, text), int.from_bytes(name[2:4], "big")
        mapping.senders[name] = seen
        return seen

    def _failures(self, mapping: _Mapping) -> None:
        """ICMP errors that the host got for datagrams of this mapping."""
        for _ in range(batches.COUNT):
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
        self.forget_routes()
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        endpoint.sockets.add(sock.fileno(), READ, lambda _: self._published_ready(endpoint, guest_port, sock))

    def unpublish(self, endpoint: Endpoint, guest_port: int, sock: socket.socket) -> None:
        endpoint.sockets.remove(sock.fileno())
        self.forget_routes()
        self._keep_peers(lambda peer: peer.socket is not sock)

    def _keep_peers(self, keeps: Callable[[_Peer], bool]) -> None:
        for guest, peers in list(self._peers.items()):
            kept = {key: peer for key, peer in peers.items() if keeps(peer)}
            if len(kept) != len(peers):
                self.forget_routes()
            if kept:
                self._peers[guest] = kept
            else:
                del self._peers[guest]

    def _published_ready(self, endpoint: Endpoint, guest_port: int, sock: socket.socket) -> None:
        for _ in range(batches.COUNT):
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
            peer = _Peer(sock, address, _asked_at(ancillary), time.monotonic())
            known = peers.pop(key, None)
            if known == peer:
                known.last_used, peer = peer.last_used, known
            else:
                self.forget_routes()
                if len(peers) >= MAX_PEERS:
                    del peers[next(iter(peers))]  # the one heard of longest ago
            peers[key] = peer
            endpoint.send_datagrams(remote, address[1], guest, guest_port, [memoryview(data)])

    # ------------------------------------------------------------------------------------------------ the end
    def tick(self, now: float) -> None:
        if now < self._next_reap:
            return
        self._next_reap = now + 10
        for key, mapping in list(self._mappings.items()):
            if now - mapping.last_used > IDLE_SECONDS:
                self._drop(key, mapping)
        self._keep_peers(lambda peer: now - peer.last_used <= IDLE_SECONDS)

    def forget(self, endpoint: Endpoint) -> None:
        for key, mapping in list(self._mappings.items()):
            if mapping.endpoint is endpoint:
                self._drop(key, mapping)

    def _drop(self, key: tuple[bytes, int], mapping: _Mapping) -> None:
        self.forget_routes()
        del self._mappings[key]
        mapping.endpoint.datagrams -= 1
        mapping.endpoint.sockets.remove(mapping.socket.fileno())
        mapping.socket.close()

    def forget_routes(self) -> None:
        """Where datagrams may go has changed."""
        self.flush()
        self._routes.clear()


def _asked_at(ancillary: list[batches.Ancillary]) -> list[batches.Ancillary]:
    """The ancillary data that makes an answer leave from where the question came to (ip(7), ipv6(7))."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            return [(level, kind, bytes(4) + data[4:8] + bytes(4))]
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            link_local = data[0] == 0xFE and data[1] & 0xC0 == 0x80
            return [(level, kind, data if link_local else data[:16] + bytes(4))]
    return []


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
