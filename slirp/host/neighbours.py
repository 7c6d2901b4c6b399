"""The gateway as an IPv6 neighbour and router: who asks for it gets its MAC, who asks for a router an advertisement.

Guests' own solicitations of each other pass through the switch."""

from __future__ import annotations

import ipaddress

from slirp.config import NetworkConfig
from slirp.host.endpoint import GATEWAY_MAC, Endpoint
from slirp.wire import ethernet, icmpv6, ipv6, ndp, virtio
from slirp.wire.icmp import Message
from slirp.wire.ip import ICMPV6, Packet

LINK_LOCAL = ndp.link_local(GATEWAY_MAC)
_UNSPECIFIED = bytes(16)


class Neighbours:
    """Of a network with IPv6. `own` are the gateway's addresses."""

    def __init__(self, config: NetworkConfig) -> None:
        gateway = ipaddress.IPv6Address(config.gateway6).packed
        prefix = ipaddress.IPv6Network(config.subnet6)
        resolver = ipaddress.IPv6Address(config.dns6).packed if config.dns6 else gateway
        self.own = (gateway, LINK_LOCAL, resolver)
        self._advertisement = ndp.emit_router_advertisement(
            GATEWAY_MAC,
            max(icmpv6.MIN_MTU, config.mtu),
            prefix.network_address.packed,
            prefix.prefixlen,
            autonomous=config.autoconf6,
            resolvers=resolver if config.dns else b"",
        )

    def message(self, endpoint: Endpoint, packet: Packet, message: Message) -> None:
        """Any ICMPv6 message of a guest but echo."""
        if packet.ttl != ndp.HOPS:  # it came from elsewhere, RFC 4861 7.1
            return
        if message.kind == ndp.ROUTER_SOLICITATION:
            self.advertise(endpoint)
            return
        asked = ndp.parse_neighbour(message) if message.kind == ndp.NEIGHBOUR_SOLICITATION else None
        if asked is None or asked.target not in self.own:
            return
        tested = packet.source == _UNSPECIFIED  # somebody would like to have our address: everybody hears it is taken
        answer = ndp.emit_advertisement(asked.target, GATEWAY_MAC, router=True, solicited=not tested)
        if tested:
            self._to_all_nodes(endpoint, asked.target, answer)
        else:
            endpoint.send_icmp(asked.target, packet.source, answer, ndp.HOPS)

    def advertise(self, endpoint: Endpoint) -> None:
        """Tell a guest its router and prefix."""
        self._to_all_nodes(endpoint, LINK_LOCAL, self._advertisement)

    def _to_all_nodes(self, endpoint: Endpoint, source: bytes, message: Message) -> None:
        head = ethernet.HEADER.pack(ethernet.multicast6(ndp.ALL_NODES), GATEWAY_MAC, ethernet.IPV6)
        payload = icmpv6.emit(source, ndp.ALL_NODES, message)
        header = ipv6.emit_header(source, ndp.ALL_NODES, ICMPV6, len(payload), ndp.HOPS)
        endpoint.write([virtio.PLAIN, head, header, payload])
