"""The Internet checksum (RFC 1071), by one big division: a ones' complement sum is the number modulo 65535."""

from __future__ import annotations

import struct


def ones_sum(data: bytes | memoryview) -> int:
    """Ones' complement sum of 16-bit words, 0 … 65535; an odd last byte is padded with zero."""
    value = int.from_bytes(data, "big")
    if len(data) & 1:
        value <<= 8
    return value % 0xFFFF or (0xFFFF if value else 0)


def fold(total: int) -> int:
    """Add the carries in."""
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


def checksum(data: bytes | memoryview, initial: int = 0) -> int:
    """What goes into a header's checksum field; 0 over data that holds a right one."""
    return ~fold(ones_sum(data) + initial) & 0xFFFF


def pseudo_sum(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """Sum of the pseudo header of TCP and UDP (RFC 9293 3.1, RFC 768); for IPv6 as well (RFC 8200 8.1)."""
    return fold(ones_sum(source + destination) + protocol + length)


def store(header: bytearray, offset: int, value: int) -> None:
    struct.pack_into("!H", header, offset, value)
