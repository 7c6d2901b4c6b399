"""Ethernet II frames and ARP for IPv4 (RFC 826). Lengths are checked, nothing is trusted."""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEADER = struct.Struct("!6s6sH")
HEADER_BYTES = 14
IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
BROADCAST = b"\xff" * 6
_ARP = struct.Struct("!HHBBH6s4s6s4s")
REQUEST, REPLY = 1, 2


def multicast6(address: bytes) -> bytes:
    """Where an IPv6 multicast address is sent to (RFC 2464 7)."""
    return b"\x33\x33" + address[12:]


@dataclass(frozen=True)
class ArpPacket:
    """Ethernet and IPv4 alone."""

    operation: int
    sender_mac: bytes
    sender_address: bytes
    target_mac: bytes
    target_address: bytes

    def emit(self) -> bytes:
        return _ARP.pack(
            1,
            IPV4,
            6,
            4,
            self.operation,
            self.sender_mac,
            self.sender_address,
            self.target_mac,
            self.target_address,
        )


def parse_arp(data: bytes | memoryview) -> ArpPacket | None:
    """None for what is no ARP of Ethernet and IPv4."""
    if len(data) < _ARP.size:
        return None
    hardware, protocol, hardware_bytes, protocol_bytes, operation, *rest = _ARP.unpack_from(data)
    if (hardware, protocol, hardware_bytes, protocol_bytes) != (1, IPV4, 6, 4):
        return None
    return ArpPacket(operation, *rest)
