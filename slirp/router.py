"""The router of one network: packets of guests to their protocols, and what the gateway itself answers.

Decides where a packet goes; never touches a device but through `Endpoint`. Called by `run` with frames."""

from __future__ import annotations

import ipaddress
import socket
import time

from slirp.config import NetworkConfig
from slirp.host import dns as dns_module
from slirp.host.dns import Dns
from slirp.host.endpoint import GATEWAY_MAC, Endpoint
from slirp.host.ping import Pings
from slirp.host.poller import Poller
from slirp.host.published import PublishedPorts
from slirp.host.resolvers import Resolvers
from slirp.host.tcp import Connections
from slirp.host.udp import Datagrams
from slirp.stack.names import Names
from slirp.stack.policy import Policy, Way
from slirp.wire import ethernet, icmp, ipv4, udp, virtio
from slirp.wire.checksum import checksum, pseudo_sum

LOOPBACK = "127.0.0.1"


class Router:
    """One per network."""

    def __init__(self, config: NetworkConfig, poller: Poller) -> None:
        self._config = config
        self._policy = Policy(config)
        self._gateway = ipaddress.IPv4Address(config.gateway4).packed
        self._dns_address = ipaddress.IPv4Address(config.dns4).packed if config.dns4 else self._gateway
        self._names = Names()
        self.connections = Connections(poller, self._tcp_target)
        self.datagrams = Datagrams(poller, self._target, self._seen_from)
        self.dns = Dns(poller, Resolvers(config.resolvers), self._dns_address, self._names)
        self.pings = Pings(poller)
        self.published = PublishedPorts(poller, self.connections, self.datagrams, self._seen_from)

    # ------------------------------------------------------------------------------------------------ targets
    def _tcp_target(self, destination: bytes, port: int) -> tuple[str, int] | None:
        if self._is_dns(destination, port):
            resolver = self.dns.resolver
            return (resolver, port) if resolver else None
        return self._target(destination, port)

    def _target(self, destination: bytes, port: int) -> tuple[str, int] | None:
        way = self._policy.way(destination)
        if way is Way.GATEWAY:
            return (LOOPBACK, port) if self._config.host_loopback else None
        return (socket.inet_ntoa(destination), port) if way is Way.OUTSIDE else None

    def _is_dns(self, destination: bytes, port: int) -> bool:
        return port == dns_module.PORT and destination == self._dns_address and self._config.dns

    def _seen_from(self, address: str) -> bytes:
        """A peer's address as the guest is to see it. What it could not answer through the gateway is the gateway's:
        the host's loopback, and addresses that the guest would look for on its own network."""
        try:
            packed = socket.inet_aton(address.rpartition(":")[2] if address.startswith("::ffff:") else address)
        except OSError:
            return self._gateway  # IPv6 has no other form here
        return packed if self._policy.way(packed) is Way.OUTSIDE else self._gateway

    # ------------------------------------------------------------------------------------------------ packets
    def frame(self, endpoint: Endpoint, frame: memoryview) -> None:
        """A frame for the gateway or for everybody, with its virtio header."""
        start = virtio.HEADER_BYTES + ethernet.HEADER_BYTES
        kind = frame[start - 2] << 8 | frame[start - 1]
        if kind == ethernet.IPV4:
            packet = ipv4.parse(frame[start:])
            if packet is not None and packet.source == endpoint.address:
                self._packet(endpoint, packet, virtio.checksum_is_partial(frame))
        elif kind == ethernet.ARP:
            self._arp(endpoint, frame[start:])

    def _packet(self, endpoint: Endpoint, packet: ipv4.Packet, checksum_known: bool) -> None:
        if packet.is_fragment:
            whole = endpoint.fragments.put(packet, time.monotonic())
            if whole is None:
                return
            packet, checksum_known = whole, False
        if packet.protocol == ipv4.TCP:
            self.connections.packet(endpoint, packet, checksum_known)
        elif packet.protocol == ipv4.UDP:
            self._udp(endpoint, packet, checksum_known)
        elif packet.protocol == ipv4.ICMP:
            self._icmp(endpoint, packet)
        elif self._policy.way(packet.destination) is not Way.FORBIDDEN:
            endpoint.send_unreachable(icmp.PROTOCOL_UNREACHABLE, packet)

    def _udp(self, endpoint: Endpoint, packet: ipv4.Packet, checksum_known: bool) -> None:
        data = packet.payload
        datagram = udp.parse(data)
        if datagram is None:
            return
        if not checksum_known and bytes(data[6:8]) != b"\0\0":
            length = udp.HEADER_BYTES + len(datagram.payload)
            if checksum(data[:length], pseudo_sum(packet.source, packet.destination, ipv4.UDP, length)):
                return
        way = self._policy.way(packet.destination)
        if self._is_dns(packet.destination, datagram.destination_port):
            self.dns.query(endpoint, datagram)
        elif way is Way.GATEWAY and not self._config.host_loopback:
            endpoint.send_unreachable(icmp.PORT_UNREACHABLE, packet)
        elif way is not Way.FORBIDDEN:  # broadcasts and multicasts are dropped without a word, as routers do
            self.datagrams.packet(endpoint, packet, datagram)

    def _icmp(self, endpoint: Endpoint, packet: ipv4.Packet) -> None:
        message = icmp.parse(packet.payload)
        if message is None or message.kind != icmp.ECHO:
            return
        way = self._policy.way(packet.destination)
        if way is Way.GATEWAY or packet.destination == self._dns_address:
            endpoint.send_icmp(packet.destination, message._replace(kind=icmp.ECHO_REPLY))
        elif way is Way.OUTSIDE:
            self.pings.echo(endpoint, packet, message)

    def _arp(self, endpoint: Endpoint, data: memoryview) -> None:
        asked = ethernet.parse_arp(data)
        if asked is None or asked.operation != ethernet.REQUEST:
            return
        wanted = asked.target_address
        if wanted not in (self._gateway, self._dns_address):
            return
        answer = ethernet.ArpPacket(ethernet.REPLY, GATEWAY_MAC, wanted, asked.sender_mac, asked.sender_address).emit()
        head = ethernet.HEADER.pack(asked.sender_mac, GATEWAY_MAC, ethernet.ARP)
        endpoint.write([virtio.PLAIN, head, answer])

    # ------------------------------------------------------------------------------------------------ time
    def flush(self) -> None:
        """After a batch of frames."""
        self.connections.flush()

    @property
    def timed(self) -> bool:
        """Whether `tick` should be called soon."""
        return self.connections.timed or self.dns.waiting or self.published.waiting

    def tick(self, now: float) -> None:
        self.connections.tick(now)
        self.datagrams.tick(now)
        self.dns.tick(now)
        self.pings.tick(now)
        self.published.tick()

    # ------------------------------------------------------------------------------------------------ guests
    def attach(self, endpoint: Endpoint) -> None:
        """A guest has come."""
        if self._config.has_names:
            self._names.add(endpoint.address, endpoint.names)

    def forget(self, endpoint: Endpoint) -> None:
        """A guest has gone: its flows are reset, its ports closed."""
        self._names.remove(endpoint.address)
        self.published.forget(endpoint)
        self.connections.forget(endpoint)
        self.datagrams.forget(endpoint)
        self.dns.forget(endpoint)
        self.pings.forget(endpoint)
