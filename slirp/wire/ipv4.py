"""IPv4 headers (RFC 791)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from slirp.wire.checksum import checksum

HEADER = struct.Struct("!BBHHHBBH4s4s")
HEADER_BYTES = 20
ICMP, TCP, UDP = 1, 6, 17
DONT_FRAGMENT, MORE_FRAGMENTS, OFFSET_MASK = 0x4000, 0x2000, 0x1FFF
TTL = 64


class Packet(NamedTuple):
    """`payload` is a view of the bytes given. `fragment` is the flags and offset field."""

    source: bytes
    destination: bytes
    protocol: int
    ttl: int
    identification: int
    fragment: int
    payload: memoryview

    @property
    def is_fragment(self) -> bool:
        return bool(self.fragment & (MORE_FRAGMENTS | OFFSET_MASK))


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
