"""What the switch lets pass between guests: no frame may claim an address that is another's, and nobody but the
gateway is a router. Pure."""

from __future__ import annotations

from collections.abc import Callable

from slirp.wire import ethernet, icmpv6, ipv6, ndp
from slirp.wire.ip import ICMPV6, OFFSET_MASK, TCP, UDP, Packet

_ARP_SENDER = ethernet.HEADER_BYTES + 8  # sender's hardware and protocol address, RFC 826
_IPV4_SOURCE = ethernet.HEADER_BYTES + 12  # RFC 791 3.1
_IPV6_NEXT_HEADER = ethernet.HEADER_BYTES + 6  # RFC 8200 3
_IPV6_SOURCE = ethernet.HEADER_BYTES + 8
_PROBE = bytes(4)  # an ARP probe claims nothing, RFC 5227 2.1.1
_UNSPECIFIED = bytes(16)  # nor does duplicate address detection, RFC 4862 5.4.2
_ROUTERS_ALONE = (ndp.ROUTER_ADVERTISEMENT, 137)  # and redirects, RFC 4861 4.5
_DISCOVERY = range(ndp.ROUTER_SOLICITATION, 138)


def claims_only(frame: memoryview, mac: bytes, owns: Callable[[bytes], bool]) -> bool:
    """Whether an Ethernet frame speaks for nobody but this endpoint. Its source MAC is checked before. Kinds that know
    no IP address pass: between guests it is their link."""
    kind = frame[12] << 8 | frame[13]
    if kind == ethernet.IPV4:
        return owns(bytes(frame[_IPV4_SOURCE : _IPV4_SOURCE + 4]))
    if kind == ethernet.IPV6:
        return len(frame) >= _IPV6_SOURCE + 32 and _claims_only6(frame, mac, owns)
    if kind == ethernet.ARP:
        sender = bytes(frame[_ARP_SENDER + 6 : _ARP_SENDER + 10])
        return frame[_ARP_SENDER : _ARP_SENDER + 6] == mac and (sender == _PROBE or owns(sender))
    return True


def _says_what_it_is(piece: Packet) -> bool:
    """Whether the first piece of a packet is of nothing that is judged here, which pieces could hide: the upper layer's
    header is to be in it (RFC 7112), and not neighbour discovery's (RFC 6980). Without it the others are nothing."""
    if piece.protocol in ipv6.EXTENSIONS or not len(piece.payload):
        return False
    return piece.protocol != ICMPV6 or piece.payload[0] not in _DISCOVERY


def _claims_only6(frame: memoryview, mac: bytes, owns: Callable[[bytes], bool]) -> bool:
    source = bytes(frame[_IPV6_SOURCE : _IPV6_SOURCE + 16])
    if not owns(source) and source != _UNSPECIFIED:
        return False
    if frame[_IPV6_NEXT_HEADER] in (TCP, UDP):
        return source != _UNSPECIFIED
    packet = ipv6.parse(frame[ethernet.HEADER_BYTES :])
    if packet is None:
        return False
    if packet.is_fragment:
        return bool(packet.fragment & OFFSET_MASK) or _says_what_it_is(packet)
    if packet.protocol != ICMPV6:
        return True
    kind = packet.payload[0] if len(packet.payload) else 0
    if kind in _ROUTERS_ALONE:
        return False
    if kind not in (ndp.NEIGHBOUR_SOLICITATION, ndp.NEIGHBOUR_ADVERTISEMENT):
        return True
    message = icmpv6.parse(packet.source, packet.destination, packet.payload)
    neighbour = ndp.parse_neighbour(message) if message is not None else None
    if neighbour is None or (neighbour.link and neighbour.link != mac):
        return False
    return kind == ndp.NEIGHBOUR_SOLICITATION or owns(neighbour.target)
