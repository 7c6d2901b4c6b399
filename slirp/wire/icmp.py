"""ICMP for IPv4 (RFC 792): echo, and destination unreachable."""

from __future__ import annotations

import struct
from typing import NamedTuple

from slirp.wire.checksum import checksum

_HEADER = struct.Struct("!BBHHH")
HEADER_BYTES = 8
ECHO_REPLY, UNREACHABLE, ECHO, TIME_EXCEEDED = 0, 3, 8, 11
NET_UNREACHABLE, HOST_UNREACHABLE, PROTOCOL_UNREACHABLE, PORT_UNREACHABLE = 0, 1, 2, 3
FRAGMENTATION_NEEDED, ADMINISTRATIVELY_PROHIBITED = 4, 13


class Message(NamedTuple):
    """`identifier` and `sequence` are the second word: of an echo these, of an error unused and the next hop's MTU."""

    kind: int
    code: int
    identifier: int
    sequence: int
    payload: bytes

    def emit(self) -> bytes:
        plain = _HEADER.pack(self.kind, self.code, 0, self.identifier, self.sequence) + self.payload
        return plain[:2] + struct.pack("!H", checksum(plain)) + plain[4:]


def parse(data: memoryview, *, check: bool = True) -> Message | None:
    """None where the checksum is wrong (unless somebody else has checked it) or it is too short."""
    if len(data) < HEADER_BYTES or (check and checksum(data)):
        return None
    kind, code, _, identifier, sequence = _HEADER.unpack_from(data)
    return Message(kind, code, identifier, sequence, bytes(data[HEADER_BYTES:]))


def unreachable(code: int, packet: bytes, next_hop_mtu: int = 0) -> Message:
    """About `packet`: its IP header and the first eight bytes behind it."""
    header_bytes = (packet[0] & 15) * 4
    return Message(UNREACHABLE, code, 0, next_hop_mtu, packet[: header_bytes + 8])
