"""The router of one network: packets of guests to their protocols, and what the gateway itself answers.

Decides where a packet goes; never touches a device but through `Endpoint`. Called by `run` with frames."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Mapping, Sequence

from slirp.config import NetworkConfig
from slirp.host import dns as dns_module
from slirp.host.dns import Answers, Dns
from slirp.host.dns_stream import Streams
from slirp.host.endpoint import GATEWAY_MAC, Endpoint
from slirp.host.neighbours import Neighbours
from slirp.host.outbound import Outbound
from slirp.host.ping import Pings
from slirp.host.poller import Poller
from slirp.host.published import PublishedPorts
from slirp.host.resolvers import Resolvers
from slirp.host.stale import disturb
from slirp.host.tcp import Connections
from slirp.host.udp import Datagrams
from slirp.stack.leases import Leases
from slirp.stack.names import Names
from slirp.stack.policy import Policy, Way
from slirp.wire import dhcp, ethernet, icmp, icmpv6, ipv4, ipv6, udp, virtio
from slirp.wire.checksum import checksum, pseudo_sum
from slirp.wire.ip import ICMP, ICMPV6, TCP, UDP, Packet

TICK_SECONDS = 0.1
IDLE_TICK_SECONDS = 5.0
LOOPBACK = {4: "127.0.0.1", 16: "::1"}
_IPV4 = ethernet.IPV4.to_bytes(2, "big")
_UNADDRESSED, _EVERYBODY = bytes(4), b"\xff" * 4
_FAMILY = {4: socket.AF_INET, 16: socket.AF_INET6}


class Router:
    """One per network."""

    def __init__(self, config: NetworkConfig, poller: Poller) -> None:
        self._config = config
        self._policy = Policy(config)
        self._gateway = ipaddress.IPv4Address(config.gateway4).packed if config.gateway4 else b""
        self._gateway6 = ipaddress.IPv6Address(config.gateway6).packed if config.gateway6 else b""
        dns4 = ipaddress.IPv4Address(config.dns4).packed if config.dns4 else self._gateway
        dns6 = ipaddress.IPv6Address(config.dns6).packed if config.dns6 else self._gateway6
        self._dns_addresses = (dns4, dns6) if config.dns else ()  # b"": no packet has that address
        self._own4 = (self._gateway, dns4)
        self._neighbours = Neighbours(config) if self._gateway6 else None
        resolver4, resolver6 = self._dns_addresses or (b"", b"")
        self._leases = Leases(config, GATEWAY_MAC, resolver4, resolver6)
        self._names = Names(config.name if config.has_names else "")
        answers = Answers(Resolvers(config.resolvers), self._names, forward=not config.internal)
        self._endpoints: set[Endpoint] = set()
        self._next_expiry = 0.0
        outbound = Outbound(config)
        self.connections = Connections(poller, self._tcp_target, outbound)
        self.datagrams = Datagrams(self._udp_target, self._seen_from, outbound)
        self._dns = Dns(answers)
        self._dns_streams = Streams(answers)
        self.pings = Pings(outbound)
        self.published = PublishedPorts(self.connections, self.datagrams, self._seen_from)

    # ------------------------------------------------------------------------------------------------ targets
    def _tcp_target(self, endpoint: Endpoint, destination: bytes, port: int) -> tuple[str, int] | socket.socket | None:
        if self._is_dns(destination, port):
            return self._dns_streams.open(endpoint)
        return self._target(destination, port, "tcp")

    def _udp_target(self, destination: bytes, port: int) -> tuple[str, int] | None:
        return self._target(destination, port, "udp")

    def _target(self, destination: bytes, port: int, protocol: str) -> tuple[str, int] | None:
        way = self._policy.way(destination)
        if way is Way.GATEWAY:
            return (LOOPBACK[len(destination)], port) if self._answers_at_gateway(destination, port, protocol) else None
        return (_text(destination), port) if way is Way.OUTSIDE else None

    def _answers_at_gateway(self, destination: bytes, port: int, protocol: str) -> bool:
        """The host's loopback where that is allowed, and the ports that this network has published to everybody."""
        return self._config.host_loopback or self.published.everywhere(protocol, len(destination), port)

    def _is_dns(self, destination: bytes, port: int) -> bool:
        return port == dns_module.PORT and destination in self._dns_addresses

    def _seen_from(self, endpoint: Endpoint, address: str) -> bytes:
        """A peer's address as this guest is to see it. What it could not answer through the gateway is the gateway's:
        the host's loopback, addresses that the guest would look for on its own network, and those of the version of IP
        that it does not have."""
        text = address.removeprefix("::ffff:").partition("%")[0]
        packed = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
        if endpoint.address_like(packed) and self._policy.way(packed) is Way.OUTSIDE:
            return packed
        if endpoint.address6 and (len(packed) == 16 or not endpoint.address):
            return self._gateway6
        return self._gateway

    # ------------------------------------------------------------------------------------------------ packets
    def frame(self, endpoint: Endpoint, frame: memoryview) -> None:
        """A frame for the gateway or for everybody, with its virtio header."""
        start = virtio.HEADER_BYTES + ethernet.HEADER_BYTES
        kind = frame[start - 2] << 8 | frame[start - 1]
        if kind == ethernet.IPV4:
            packet = ipv4.parse(frame[start:])
            if packet is not None and endpoint.owns(packet.source):
                self._packet(endpoint, packet, virtio.checksum_is_partial(frame), virtio.datagram_bytes(frame))
        elif kind == ethernet.IPV6:
            packet = ipv6.parse(frame[start:]) if self._neighbours is not None else None
            if packet is not None:
                if endpoint.owns(packet.source):
                    self._packet(endpoint, packet, virtio.checksum_is_partial(frame), virtio.datagram_bytes(frame))
                elif packet.protocol == ICMPV6 and not any(packet.source):
                    self._icmp6(endpoint, packet)  # a guest without an address looks for a router
        elif kind == ethernet.ARP:
            self._arp(endpoint, frame[start:])

    def _packet(self, endpoint: Endpoint, packet: Packet, checksum_known: bool, datagram_bytes: int) -> None:
        if packet.fragment and packet.is_fragment:
            whole = endpoint.fragments.put(packet, time.monotonic())
            if whole is None:
                return
            packet, checksum_known, datagram_bytes = whole, False, 0
        protocol, version = packet.protocol, len(packet.source)
        if protocol == TCP:
            self.connections.packet(endpoint, packet, checksum_known)
        elif protocol == UDP:
            self._udp(endpoint, packet, checksum_known, datagram_bytes)
        elif protocol == ICMP and version == 4:
            self._icmp4(endpoint, packet)
        elif protocol == ICMPV6 and version == 16:
            self._icmp6(endpoint, packet)
        elif self._policy.way(packet.destination) is not Way.FORBIDDEN:
            endpoint.send_unreachable(icmp.PROTOCOL_UNREACHABLE, packet)

    def _udp(self, endpoint: Endpoint, packet: Packet, checksum_known: bool, datagram_bytes: int) -> None:
        data = packet.payload
        datagram = udp.parse(data)
        if datagram is None:
            return
        if not checksum_known and (bytes(data[6:8]) != b"\0\0" or len(packet.source) == 16):
            length = udp.HEADER_BYTES + len(datagram.payload)
            if checksum(data[:length], pseudo_sum(packet.source, packet.destination, UDP, length)):
                return
        way = self._policy.way(packet.destination)
        port = datagram.destination_port
        if self._is_dns(packet.destination, port):
            self._dns.query(endpoint, packet, datagram)
        elif port == dhcp.SERVER_PORT and way is not Way.OUTSIDE and len(packet.source) == 4:
            self._dhcp4(endpoint, datagram)
        elif port == dhcp.SERVER_PORT6 and packet.destination == dhcp.ALL_SERVERS6:
            self._dhcp6(endpoint, packet, datagram)
        elif (
            way is Way.GATEWAY
            and not self._answers_at_gateway(packet.destination, port, "udp")
            and not self.datagrams.is_answer(packet, datagram)
        ):
            endpoint.send_unreachable(icmp.PORT_UNREACHABLE, packet)
        elif way is not Way.FORBIDDEN:  # broadcasts and multicasts are dropped without a word, as routers do
            self.datagrams.packet(endpoint, packet, datagram, datagram_bytes)

    # ------------------------------------------------------------------------------------------------ leases
    def unaddressed(self, endpoint: Endpoint, frame: memoryview) -> None:
        """A frame to everybody from a guest that has no address yet: it may ask for its own."""
        start = virtio.HEADER_BYTES + ethernet.HEADER_BYTES
        packet = ipv4.parse(frame[start:]) if bytes(frame[start - 2 : start]) == _IPV4 else None
        if packet is None or packet.protocol != UDP or packet.source != _UNADDRESSED or packet.is_fragment:
            return
        datagram = udp.parse(packet.payload)
        if datagram is not None and datagram.destination_port == dhcp.SERVER_PORT:
            self._dhcp4(endpoint, datagram)

    def _dhcp4(self, endpoint: Endpoint, datagram: udp.Datagram) -> None:
        answer = self._leases.answer(datagram.payload, endpoint.mac, endpoint.address, endpoint.names)
        if answer is not None:  # to everybody, but in a frame to it alone: it may not have its address yet
            endpoint.send_udp(self._gateway, dhcp.SERVER_PORT, _EVERYBODY, dhcp.CLIENT_PORT, answer)

    def _dhcp6(self, endpoint: Endpoint, packet: Packet, datagram: udp.Datagram) -> None:
        answer = self._leases.answer6(datagram.payload)
        if answer is not None and self._neighbours is not None:
            own = self._neighbours.own[1]
            endpoint.send_udp(own, dhcp.SERVER_PORT6, packet.source, dhcp.CLIENT_PORT6, answer)

    # ------------------------------------------------------------------------------------------------ echo
    def _icmp4(self, endpoint: Endpoint, packet: Packet) -> None:
        message = icmp.parse(packet.payload)
        if message is not None and message.kind == icmp.ECHO:
            own = packet.destination in self._own4
            self._echo(endpoint, packet, message, message._replace(kind=icmp.ECHO_REPLY) if own else None)

    def _icmp6(self, endpoint: Endpoint, packet: Packet) -> None:
        message = icmpv6.parse(packet.source, packet.destination, packet.payload)
        if message is None or self._neighbours is None:
            return
        if message.kind == icmpv6.ECHO:
            own = packet.destination in self._neighbours.own
            self._echo(endpoint, packet, message, message._replace(kind=icmpv6.ECHO_REPLY) if own else None)
        else:
            self._neighbours.message(endpoint, packet, message)

    def _echo(self, endpoint: Endpoint, packet: Packet, asked: icmp.Message, answer: icmp.Message | None) -> None:
        if answer is not None:
            endpoint.send_icmp(packet.destination, packet.source, answer)
        elif self._policy.way(packet.destination) is Way.OUTSIDE:
            self.pings.echo(endpoint, packet, asked)

    def _arp(self, endpoint: Endpoint, data: memoryview) -> None:
        asked = ethernet.parse_arp(data)
        if asked is None or asked.operation != ethernet.REQUEST:
            return
        wanted = asked.target_address
        if wanted not in self._own4:
            return
        answer = ethernet.ArpPacket(ethernet.REPLY, GATEWAY_MAC, wanted, asked.sender_mac, asked.sender_address).emit()
        head = ethernet.HEADER.pack(asked.sender_mac, GATEWAY_MAC, ethernet.ARP)
        endpoint.write([virtio.PLAIN, head, answer])

    # ------------------------------------------------------------------------------------------------ time
    def flush(self) -> None:
        """After a batch of frames."""
        self.connections.flush()
        self.datagrams.flush()

    def patience_seconds(self) -> float:
        """How long to wait for something to happen, at most, before `tick`; connections are due by themselves."""
        timed = self._dns.waiting or self._dns_streams.waiting or self.published.waiting
        return TICK_SECONDS if timed else IDLE_TICK_SECONDS

    def tick(self, now: float) -> None:
        self.connections.tick(now)
        self.datagrams.tick(now)
        self._dns.tick(now)
        self._dns_streams.tick(now)
        self.pings.tick(now)
        self.published.tick()
        if now >= self._next_expiry:
            self._next_expiry = now + 10
            for endpoint in self._endpoints:
                endpoint.fragments.expire(now)

    # ------------------------------------------------------------------------------------------------ guests
    def attach(self, endpoint: Endpoint) -> None:
        """A guest has come."""
        self._endpoints.add(endpoint)
        if self._neighbours is not None:
            self._neighbours.advertise(endpoint)

    def name(self, endpoint: Endpoint, names: Sequence[str], private: Mapping[str, Sequence[str]]) -> None:
        """What a guest is called, and the names that it alone sees. Raises ValueError."""
        endpoint.names = list(names)
        addresses = [address for address in (endpoint.address, endpoint.address6) if address]
        self._names.put(endpoint.endpoint_id, addresses, names if self._config.has_names else (), private)

    def forbid(self, subnets: Sequence[str]) -> None:
        """Nothing leads to these any more. Raises ValueError."""
        self._policy.forbid(subnets)
        self.datagrams.forget_routes()

    def reset(self, endpoint: Endpoint, flows: Sequence[str]) -> None:
        """End what another process of this network has left behind. Raises ValueError."""
        disturb(endpoint, flows, lambda address: self._policy.way(address) is not Way.SUBNET)

    def forget(self, endpoint: Endpoint) -> None:
        """A guest has gone: its flows are reset, its ports closed."""
        self._endpoints.discard(endpoint)
        self._names.remove(endpoint.endpoint_id)
        self.published.forget(endpoint)
        self.connections.forget(endpoint)
        self.datagrams.forget(endpoint)
        self._dns.forget(endpoint)
        self._dns_streams.forget(endpoint)
        self.pings.forget(endpoint)


def _text(address: bytes) -> str:
    return socket.inet_ntop(_FAMILY[len(address)], address)
