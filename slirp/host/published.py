"""Published ports: sockets of the host's that somebody else has bound, and the guest behind each."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from slirp.host.connection import Connection
from slirp.host.endpoint import Endpoint
from slirp.host.poller import READ
from slirp.host.tcp import Connections
from slirp.host.udp import Datagrams
from slirp.stack import tcp_flow

ACCEPT_BATCH, ACCEPT_BATCH_SHARED = 16, 2  # in a turn; and while other guests wait
MAX_ASKED = 8  # connections that a port's guest has not answered yet
_NO_MEMORY = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass
class _Published:
    endpoint: Endpoint
    guest_port: int
    socket: socket.socket
    asked: list[Connection] = field(default_factory=list)  # and perhaps answered


class PublishedPorts:
    """`source(endpoint, address)` gives how the guest sees a client."""

    def __init__(
        self, connections: Connections, datagrams: Datagrams, source: Callable[[Endpoint, str], bytes]
    ) -> None:
        self._connections, self._datagrams, self._source = connections, datagrams, source
        self._by_id: dict[str, _Published] = {}
        self._everywhere: set[tuple[str, int, int]] = set()
        self._waiting: list[_Published] = []

    def publish(self, publish_id: str, endpoint: Endpoint, guest_port: int, protocol: str, fd: int) -> None:
        """The descriptor becomes ours: a listening TCP socket or a bound UDP one. Raises ValueError."""
        sock = socket.socket(fileno=fd)
        if protocol not in ("tcp", "udp") or not 0 < guest_port < 65536:
            sock.close()
            raise ValueError(f"cannot publish {guest_port}/{protocol}")
        self.unpublish(publish_id)
        sock.setblocking(False)
        published = self._by_id[publish_id] = _Published(endpoint, guest_port, sock)
        if (place := _everywhere(sock)) is not None:
            self._everywhere.add(place)
        if protocol == "udp":
            self._datagrams.publish(endpoint, guest_port, sock)
        else:
            endpoint.listeners.add(sock.fileno(), READ, lambda _: self._accept(published))

    def everywhere(self, protocol: str, address_bytes: int, port: int) -> bool:
        """Whether this port of the host is published on all of its addresses (of 4 bytes or 16)."""
        return (protocol, address_bytes, port) in self._everywhere

    def _accept(self, published: _Published) -> None:
        """One at a time, and its answer is read before the next: a kernel answers all that are asked for while its
        queue for accept(2) has room, and resets those that had none after all, seconds later."""
        endpoint = published.endpoint
        for _ in range(ACCEPT_BATCH if endpoint.sockets.alone else ACCEPT_BATCH_SHARED):
            if len(published.asked) >= MAX_ASKED:
                published.asked = [asked for asked in published.asked if asked.flow.state == tcp_flow.SYN_SENT]
                if len(published.asked) >= MAX_ASKED:
                    self._pause(published)
                    return
            try:
                sock, address = published.socket.accept()
            except OSError as error:
                if error.errno in _NO_MEMORY:
                    self._pause(published)
                return
            sock.setblocking(False)
            source = self._source(endpoint, address[0])
            asked = self._connections.connect(endpoint, sock, source, address[1], published.guest_port)
            if asked is not None:
                published.asked.append(asked)
                endpoint.look()

    def _pause(self, published: _Published) -> None:
        """Until the next tick; clients wait in the backlog."""
        published.endpoint.listeners.change(published.socket.fileno(), 0)
        self._waiting.append(published)

    def unpublish(self, publish_id: str) -> None:
        published = self._by_id.pop(publish_id, None)
        if published is None:
            return
        if published.socket.type == socket.SOCK_DGRAM:
            self._datagrams.unpublish(published.endpoint, published.guest_port, published.socket)
        if (place := _everywhere(published.socket)) is not None:
            self._everywhere.discard(place)
        published.endpoint.listeners.remove(published.socket.fileno())
        published.socket.close()

    @property
    def waiting(self) -> bool:
        """Whether a port waits for descriptors, or for its guest to answer."""
        return bool(self._waiting)

    def tick(self) -> None:
        for published in self._waiting:
            if published.socket.fileno() >= 0:
                published.endpoint.listeners.change(published.socket.fileno(), READ)
        self._waiting.clear()

    def forget(self, endpoint: Endpoint) -> None:
        for publish_id in [key for key, published in self._by_id.items() if published.endpoint is endpoint]:
            self.unpublish(publish_id)


def _everywhere(sock: socket.socket) -> tuple[str, int, int] | None:
    """(protocol, bytes of an address, port) of a socket bound to no address in particular."""
    address, port = sock.getsockname()[:2]
    if address not in ("0.0.0.0", "::"):
        return None
    return "tcp" if sock.type == socket.SOCK_STREAM else "udp", 4 if address == "0.0.0.0" else 16, port
