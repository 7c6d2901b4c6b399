"""What IPv4 and IPv6 packets have in common once they are parsed. An address is its 4 or 16 bytes, and tells by its
length which of the two it is."""

from __future__ import annotations

from typing import NamedTuple

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
MORE_FRAGMENTS, OFFSET_MASK = 0x2000, 0x1FFF  # of `Packet.fragment`, IPv4's form
TTL = 64


class Packet(NamedTuple):
    """`payload` is a view of the bytes given. `fragment` is flags and offset in IPv4's form (offset in eight bytes),
    0 for a packet that is whole."""

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
