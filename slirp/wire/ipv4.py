"""IPv4 headers (RFC 791)."""

from __future__ import annotations

import struct

from slirp.wire.checksum import checksum
from slirp.wire.ip import ICMP, MORE_FRAGMENTS, OFFSET_MASK, TCP, TTL, UDP, Packet

__all__ = [
    "HEADER_BYTES",
    "ICMP",
    "MORE_FRAGMENTS",
    "OFFSET_MASK",
    "TCP",
    "TTL",
    "UDP",
    "Packet",
    "emit_header",
    "parse",
]

HEADER = struct.Struct("!BBHHHBBH4s4s")
HEADER_BYTES = 20
DONT_FRAGMENT = 0x4000


def parse(data: memoryview) -> Packet | None:
    """None for anything that is not a whole, valid IPv4 packet. Trailing bytes (Ethernet padding) are cut off."""
    if len(data) < HEADER_BYTES:
        return None
    first, _, total, identification, fragment, ttl, protocol, _, source, destination = HEADER.unpack_from(data)
    header_bytes = (first & 15) * 4
    if first >> 4 != 4 or header_bytes < HEADER_BYTES or not header_bytes <= total <= len(data):
        return None
    if checksum(data[:header_bytes]):
        return None
    return Packet(source, destination, protocol, ttl, identification, fragment, data[header_bytes:total])


def emit_header(
    source: bytes, destination: bytes, protocol: int, payload_bytes: int, identification: int = 0, fragment: int = 0
) -> bytes:
    """A header without options, with its checksum."""
    total = HEADER_BYTES + payload_bytes
    header = bytearray(HEADER.pack(0x45, 0, total, identification, fragment, TTL, protocol, 0, source, destination))
    struct.pack_into("!H", header, 10, checksum(bytes(header)))
    return bytes(header)
