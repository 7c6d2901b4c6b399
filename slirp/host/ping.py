"""ICMP echo of guests to the outside, through ping sockets (icmp(7), net.ipv4.ping_group_range)."""

from __future__ import annotations

import socket
import time

from slirp.host.endpoint import Endpoint
from slirp.host.poller import READ, Poller
from slirp.wire import icmp, ipv4

IDLE_SECONDS = 30.0
MAX_SOCKETS = 64  # of one network


class _Pinger:
    def __init__(self, endpoint: Endpoint, identifier: int, sock: socket.socket) -> None:
        self.endpoint, self.identifier, self.socket = endpoint, identifier, sock
        self.last_used = time.monotonic()


class Pings:
    """A ping socket for every identifier a guest uses."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._pingers: dict[tuple[bytes, int], _Pinger] = {}
        self._next_reap = 0.0

    def echo(self, endpoint: Endpoint, packet: ipv4.Packet, message: icmp.Message) -> None:
        """A guest's echo request. Where ping sockets are closed to us it gets "prohibited", not silence."""
        key = endpoint.address, message.identifier
        pinger = self._pingers.get(key) or self._open(key, endpoint, message.identifier)
        if pinger is None:
            endpoint.send_unreachable(icmp.ADMINISTRATIVELY_PROHIBITED, packet)
            return
        pinger.last_used = time.monotonic()
        try:
            pinger.socket.sendto(message.emit(), (socket.inet_ntoa(packet.destination), 0))
        except OSError:
            endpoint.send_unreachable(icmp.HOST_UNREACHABLE, packet)

    def _open(self, key: tuple[bytes, int], endpoint: Endpoint, identifier: int) -> _Pinger | None:
        if len(self._pingers) >= MAX_SOCKETS:
            return None
        try:
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            sock = socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP)
        except OSError:
            return None
        pinger = self._pingers[key] = _Pinger(endpoint, identifier, sock)
        self._poller.add(sock.fileno(), READ, lambda _: self._ready(pinger))
        return pinger

    def _ready(self, pinger: _Pinger) -> None:
        for _ in range(32):
            try:
                data, (host, _) = pinger.socket.recvfrom(65535)
            except OSError:
                return
            message = icmp.parse(memoryview(data))
            if message is not None and message.kind == icmp.ECHO_REPLY:
                answer = message._replace(identifier=pinger.identifier)  # the kernel has put its own
                pinger.endpoint.send_icmp(socket.inet_aton(host), answer)

    def tick(self, now: float) -> None:
        if now >= self._next_reap:
            self._next_reap = now + 10
            self._drop([key for key, pinger in self._pingers.items() if now - pinger.last_used > IDLE_SECONDS])

    def forget(self, endpoint: Endpoint) -> None:
        self._drop([key for key, pinger in self._pingers.items() if pinger.endpoint is endpoint])

    def _drop(self, keys: list[tuple[bytes, int]]) -> None:
        for key in keys:
            pinger = self._pingers.pop(key)
            self._poller.remove(pinger.socket.fileno())
            pinger.socket.close()
