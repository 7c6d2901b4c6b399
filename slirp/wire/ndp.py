"""Neighbour discovery (RFC 4861): the four messages, without their ICMPv6 header's first four bytes where `Message`
has them. Hop limit 255 is the caller's to check and to send."""

from __future__ import annotations

import struct
from typing import NamedTuple

from slirp.wire.icmp import Message

HOPS = 255
ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = 133, 134, 135, 136
SOURCE_LINK, TARGET_LINK, _PREFIX, _MTU, _RDNSS = 1, 2, 3, 5, 25
_ROUTER, _SOLICITED, _OVERRIDE = 0x8000, 0x4000, 0x2000
_ON_LINK, _AUTONOMOUS = 0x80, 0x40
_OTHER_CONFIGURATION = 0x40
PREFIX_LIFETIME_SECONDS, ROUTER_LIFETIME_SECONDS = 86400, 9000  # RFC 4861 6.2.1 allows 9000 at most for a router
ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
ALL_ROUTERS = bytes.fromhex("ff020000000000000000000000000002")


class Neighbour(NamedTuple):
    """Of a solicitation or an advertisement. `link` is the MAC it names, b"" for none."""

    target: bytes
    link: bytes


def parse_neighbour(message: Message) -> Neighbour | None:
    """None for what is no valid one (7.1.1, 7.1.2)."""
    wanted = {NEIGHBOUR_SOLICITATION: SOURCE_LINK, NEIGHBOUR_ADVERTISEMENT: TARGET_LINK}.get(message.kind)
    data = message.payload
    if wanted is None or message.code or len(data) < 16 or data[0] == 0xFF:
        return None
    link = b""
    position = 16
    while position < len(data):
        if position + 2 > len(data):
            return None
        length = data[position + 1] * 8
        if not length or position + length > len(data):
            return None
        if data[position] == wanted and length == 8:
            link = data[position + 2 : position + 8]
        position += length
    return Neighbour(data[:16], link)


def emit_solicitation(target: bytes, mac: bytes) -> Message:
    return Message(NEIGHBOUR_SOLICITATION, 0, 0, 0, target + bytes((SOURCE_LINK, 1)) + mac)


def emit_advertisement(target: bytes, mac: bytes, *, router: bool, solicited: bool) -> Message:
    flags = (_ROUTER if router else 0) | (_SOLICITED if solicited else 0) | _OVERRIDE
    return Message(NEIGHBOUR_ADVERTISEMENT, 0, flags, 0, target + bytes((TARGET_LINK, 1)) + mac)


def emit_router_advertisement(
    mac: bytes, mtu: int, prefix: bytes, prefix_length: int, *, autonomous: bool, resolvers: bytes = b""
) -> Message:
    """`prefix` 16 bytes; `autonomous`: guests make addresses of it. `resolvers`: addresses one after the other
    (RFC 8106). Hop limit 64, "other configuration" by DHCPv6."""
    options = bytes((SOURCE_LINK, 1)) + mac
    options += struct.pack("!BBHI", _MTU, 1, 0, mtu)
    flags = _ON_LINK | (_AUTONOMOUS if autonomous else 0)
    lifetime = PREFIX_LIFETIME_SECONDS
    options += struct.pack("!BBBBIII16s", _PREFIX, 4, prefix_length, flags, lifetime, lifetime, 0, prefix)
    if resolvers:
        options += struct.pack("!BBHI", _RDNSS, 1 + len(resolvers) // 8, 0, ROUTER_LIFETIME_SECONDS) + resolvers
    head = 64 << 8 | _OTHER_CONFIGURATION
    return Message(ROUTER_ADVERTISEMENT, 0, head, ROUTER_LIFETIME_SECONDS, bytes(8) + options)


def solicited_node(address: bytes) -> bytes:
    """The multicast address to ask for an address at (RFC 4291 2.7.1)."""
    return bytes.fromhex("ff0200000000000000000001ff") + address[13:]


def link_local(mac: bytes) -> bytes:
    """fe80:: with the modified EUI-64 of a MAC (RFC 4291 appendix A)."""
    return bytes.fromhex("fe80000000000000") + bytes((mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:]))
