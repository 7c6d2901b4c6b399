"""DNS for guests: what the network knows itself is answered at once, the rest is asked of the host's resolvers.

Over UDP every query has a socket of its own, so its port is as hard to guess as the host's own queries' (RFC 5452). A
resolver that does not answer is followed by the next; at the end the guest gets SERVFAIL. TCP is in `dns_stream`."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

from slirp.host.endpoint import Endpoint
from slirp.host.poller import READ
from slirp.host.resolvers import Resolvers
from slirp.stack.names import Names
from slirp.wire import dns, udp
from slirp.wire.ip import Packet

PORT = 53
TRY_SECONDS = 2.5
TRIES = 4
MAX_QUERIES = 128  # of one guest
Target = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]


class Answers:
    """Who answers which question: `forward` says whether others are asked about names that are not ours."""

    def __init__(self, resolvers: Resolvers, names: Names, forward: bool) -> None:
        self._resolvers, self._names, self._forward = resolvers, names, forward
        self._answered_last = ""

    def own(self, endpoint: Endpoint, query: bytes) -> bytes | None:
        """An answer that needs nobody else."""
        known = self._names.answer(query, endpoint.endpoint_id)
        return dns.failure(query) if known is None and not self._forward else known

    def resolver(self, endpoint: Endpoint, attempt: int) -> tuple[str, Target] | None:
        """Whom to ask at this attempt, from 0: the one that has answered last, then the others; None for nobody."""
        addresses: Sequence[str] = endpoint.resolvers or self._resolvers.addresses()
        if self._answered_last in addresses:
            addresses = (self._answered_last, *(a for a in addresses if a != self._answered_last))
        if not addresses or attempt >= TRIES:
            return None
        address = addresses[attempt % len(addresses)]
        try:  # numeric; getaddrinfo(3) knows the zone of fe80::1%eth0
            family, _, _, _, target = socket.getaddrinfo(
                address, PORT, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
            )[0]
        except OSError:
            return self.resolver(endpoint, attempt + 1)
        return address, (family, target)  # type: ignore[return-value]

    def answered(self, resolver: str) -> None:
        self._answered_last = resolver


class _Query:
    def __init__(self, endpoint: Endpoint, packet: Packet, port: int, data: bytes) -> None:
        self.endpoint, self.port, self.data = endpoint, port, data
        self.guest, self.asked = packet.source, packet.destination
        self.socket: socket.socket | None = None
        self.resolver = ""
        self.tries = 0
        self.deadline = 0.0


class Dns:
    """Over UDP. Answers come from the address that was asked."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._queries: dict[tuple[bytes, int, bytes], _Query] = {}

    @property
    def waiting(self) -> bool:
        return bool(self._queries)

    def query(self, endpoint: Endpoint, packet: Packet, datagram: udp.Datagram) -> None:
        """A guest's question, in this packet."""
        data = bytes(datagram.payload)
        if not dns.is_query(data):
            return
        known = self._answers.own(endpoint, data)
        if known is not None:
            if len(known) > dns.PLAIN_UDP_BYTES and len(known) > (limit := dns.udp_limit(data)):
                known = dns.truncated(known, limit)
            endpoint.send_udp(packet.destination, PORT, packet.source, datagram.source_port, known)
            return
        key = packet.source, datagram.source_port, data[:2]
        if key in self._queries or endpoint.queries >= MAX_QUERIES:
            return  # asked again while we ask, or a flood: the guest will ask again
        query = self._queries[key] = _Query(endpoint, packet, datagram.source_port, data)
        endpoint.queries += 1
        self._ask(key, query)

    def _ask(self, key: tuple[bytes, int, bytes], query: _Query) -> None:
        self._close(query)
        while (found := self._answers.resolver(query.endpoint, query.tries)) is not None:
            query.tries += 1
            query.resolver, (family, target) = found
            try:
                sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            except OSError:
                continue
            query.socket = sock
            try:
                sock.connect(target)
                sock.send(query.data)
            except OSError:
                self._close(query)
                continue
            query.deadline = time.monotonic() + TRY_SECONDS
            query.endpoint.sockets.add(sock.fileno(), READ, lambda _: self._ready(key, query))
            return
        self._answer(key, query, dns.failure(query.data))

    def _ready(self, key: tuple[bytes, int, bytes], query: _Query) -> None:
        if query.socket is None:
            return
        try:
            data = query.socket.recv(65535)
        except BlockingIOError:
            return
        except OSError:  # the resolver's port is closed
            self._ask(key, query)
            return
        if len(data) >= dns.HEADER_BYTES and data[:2] == query.data[:2] and data[2] & 0x80:
            self._answers.answered(query.resolver)
            self._answer(key, query, data)

    def _answer(self, key: tuple[bytes, int, bytes], query: _Query, data: bytes) -> None:
        self._end(key, query)
        query.endpoint.send_udp(query.asked, PORT, query.guest, query.port, data)

    def tick(self, now: float) -> None:
        for key, query in list(self._queries.items()):
            if now >= query.deadline:
                self._ask(key, query)

    def forget(self, endpoint: Endpoint) -> None:
        for key, query in list(self._queries.items()):
            if query.endpoint is endpoint:
                self._end(key, query)

    def _end(self, key: tuple[bytes, int, bytes], query: _Query) -> None:
        self._close(query)
        if self._queries.pop(key, None) is not None:
            query.endpoint.queries -= 1

    def _close(self, query: _Query) -> None:
        if query.socket is not None:
            query.endpoint.sockets.remove(query.socket.fileno())
            query.socket.close()
            query.socket = None
