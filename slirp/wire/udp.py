"""UDP datagrams (RFC 768)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from slirp.wire.checksum import checksum, pseudo_sum

HEADER = struct.Struct("!HHHH")
HEADER_BYTES = 8
PROTOCOL = 17
MAX_PAYLOAD = 65507


class Datagram(NamedTuple):
    source_port: int
    destination_port: int
    payload: memoryview


def parse(data: memoryview) -> Datagram | None:
    """None for what is shorter than it says. The checksum is the caller's."""
    if len(data) < HEADER_BYTES:
        return None
    source_port, destination_port, length, _ = HEADER.unpack_from(data)
    if not HEADER_BYTES <= length <= len(data):
        return None
    return Datagram(source_port, destination_port, data[HEADER_BYTES:length])


def emit(source: bytes, destination: bytes, source_port: int, destination_port: int, payload: bytes) -> bytes:
    """The datagram with its checksum; 0, which means none, is sent as its other form."""
    length = HEADER_BYTES + len(payload)
    plain = HEADER.pack(source_port, destination_port, length, 0) + payload
    value = checksum(plain, pseudo_sum(source, destination, PROTOCOL, length)) or 0xFFFF
    return HEADER.pack(source_port, destination_port, length, value) + payload
