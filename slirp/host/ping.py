"""ICMP echo of guests to the outside, through ping sockets (icmp(7), net.ipv4.ping_group_range)."""

from __future__ import annotations

import socket
import time

from slirp.host.endpoint import Endpoint
from slirp.host.outbound import Outbound
from slirp.host.poller import READ
from slirp.wire import icmp, icmpv6
from slirp.wire.ip import Packet

IDLE_SECONDS = 30.0
MAX_SOCKETS = 64  # of one network


class _Pinger:
    def __init__(self, endpoint: Endpoint, guest: bytes, identifier: int, sock: socket.socket) -> None:
        self.endpoint, self.guest, self.identifier, self.socket = endpoint, guest, identifier, sock
        self.last_used = time.monotonic()


class Pings:
    """A ping socket for every identifier a guest uses."""

    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound
        self._pingers: dict[tuple[bytes, int], _Pinger] = {}
        self._next_reap = 0.0

    def echo(self, endpoint: Endpoint, packet: Packet, message: icmp.Message) -> None:
        """A guest's echo request. Where ping sockets are closed to us it gets "prohibited", not silence."""
        pinger = self._pingers.get((packet.source, message.identifier))
        pinger = pinger or self._open(endpoint, packet.source, message.identifier)
        if pinger is None:
            endpoint.send_unreachable(icmp.ADMINISTRATIVELY_PROHIBITED, packet)
            return
        pinger.last_used = time.monotonic()
        try:
            host = socket.inet_ntop(pinger.socket.family, packet.destination)
            pinger.socket.sendto(message.emit(), (host, 0))
        except OSError:
            endpoint.send_unreachable(icmp.HOST_UNREACHABLE, packet)

    def _open(self, endpoint: Endpoint, guest: bytes, identifier: int) -> _Pinger | None:
        if len(self._pingers) >= MAX_SOCKETS:
            return None
        try:
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            if len(guest) == 4:
                sock = socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP)
            else:
                sock = socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6)
            if address := self._outbound.address(sock.family):
                sock.bind((address, 0))
        except OSError:
            return None
        pinger = self._pingers[guest, identifier] = _Pinger(endpoint, guest, identifier, sock)
        endpoint.sockets.add(sock.fileno(), READ, lambda _: self._ready(pinger))
        return pinger

    def _ready(self, pinger: _Pinger) -> None:
        for _ in range(32):
            try:
                data, address = pinger.socket.recvfrom(65535)
            except OSError:
                return
            message = icmp.parse(memoryview(data), check=pinger.socket.family == socket.AF_INET)
            if message is not None and message.kind in (icmp.ECHO_REPLY, icmpv6.ECHO_REPLY):
                answer = message._replace(identifier=pinger.identifier)  # the kernel has put its own
                source = socket.inet_pton(pinger.socket.family, address[0].partition("%")[0])
                pinger.endpoint.send_icmp(source, pinger.guest, answer)

    def tick(self, now: float) -> None:
        if now >= self._next_reap:
            self._next_reap = now + 10
            self._drop([key for key, pinger in self._pingers.items() if now - pinger.last_used > IDLE_SECONDS])

    def forget(self, endpoint: Endpoint) -> None:
        self._drop([key for key, pinger in self._pingers.items() if pinger.endpoint is endpoint])

    def _drop(self, keys: list[tuple[bytes, int]]) -> None:
        for key in keys:
            pinger = self._pingers.pop(key)
            pinger.endpoint.sockets.remove(pinger.socket.fileno())
            pinger.socket.close()
