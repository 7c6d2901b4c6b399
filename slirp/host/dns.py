"""DNS queries of guests to the gateway, over UDP: passed to the host's resolvers, answers passed back.

Every query has a socket of its own, so its port is as hard to guess as the host's own queries' (RFC 5452). A resolver
that does not answer is followed by the next; at the end the guest gets SERVFAIL. TCP queries are ordinary flows to a
resolver (see `router`)."""

from __future__ import annotations

import socket
import time

from slirp.host.endpoint import Endpoint
from slirp.host.poller import READ, Poller
from slirp.host.resolvers import Resolvers
from slirp.wire import udp

PORT = 53
TRY_SECONDS = 2.5
TRIES = 4
MAX_QUERIES = 256  # of one network
_SERVFAIL = 2


class _Query:
    def __init__(self, endpoint: Endpoint, port: int, data: bytes) -> None:
        self.endpoint, self.port, self.data = endpoint, port, data
        self.socket: socket.socket | None = None
        self.tries = 0
        self.deadline = 0.0


class Dns:
    """`gateway` is the address the guests ask."""

    def __init__(self, poller: Poller, resolvers: Resolvers, gateway: bytes) -> None:
        self._poller, self._resolvers, self._gateway = poller, resolvers, gateway
        self._queries: dict[tuple[bytes, int, bytes], _Query] = {}

    @property
    def waiting(self) -> bool:
        return bool(self._queries)

    def query(self, endpoint: Endpoint, datagram: udp.Datagram) -> None:
        """A guest's question."""
        data = bytes(datagram.payload)
        if len(data) < 12 or data[2] & 0x80:  # no header, or itself an answer
            return
        key = endpoint.address, datagram.source_port, data[:2]
        if key in self._queries or len(self._queries) >= MAX_QUERIES:
            return  # asked again while we ask, or a flood: the guest will ask again
        query = self._queries[key] = _Query(endpoint, datagram.source_port, data)
        self._ask(key, query)

    def _ask(self, key: tuple[bytes, int, bytes], query: _Query) -> None:
        self._close(query)
        addresses = self._resolvers.addresses()
        while addresses and query.tries < TRIES:
            address = addresses[query.tries % len(addresses)]
            query.tries += 1
            try:
                family, kind, _, _, target = socket.getaddrinfo(
                    address, PORT, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
                )[0]
                sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
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
            self._poller.add(sock.fileno(), READ, lambda _: self._ready(key, query))
            return
        self._answer(key, query, failure(query.data))

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
        if len(data) >= 12 and data[:2] == query.data[:2] and data[2] & 0x80:
            self._answer(key, query, data)

    def _answer(self, key: tuple[bytes, int, bytes], query: _Query, data: bytes) -> None:
        self._close(query)
        self._queries.pop(key, None)
        query.endpoint.send_udp(self._gateway, PORT, query.port, data)

    def tick(self, now: float) -> None:
        for key, query in list(self._queries.items()):
            if now >= query.deadline:
                self._ask(key, query)

    def forget(self, endpoint: Endpoint) -> None:
        for key, query in list(self._queries.items()):
            if query.endpoint is endpoint:
                self._close(query)
                del self._queries[key]

    def _close(self, query: _Query) -> None:
        if query.socket is not None:
            self._poller.remove(query.socket.fileno())
            query.socket.close()
            query.socket = None


def failure(query: bytes) -> bytes:
    """SERVFAIL for a query: its header and question, the answer bit, no records (RFC 1035 4.1.1)."""
    flags = bytes([(query[2] & 0x79) | 0x80, 0x80 | _SERVFAIL])
    return query[:2] + flags + query[4:6] + bytes(6) + query[12:]
