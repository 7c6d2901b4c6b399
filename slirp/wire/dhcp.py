"""DHCP messages (RFC 2131 2, RFC 2132): what a client asks, and a server's answers. DHCPv6's (RFC 8415) that ask for
no address are below."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

SERVER_PORT, CLIENT_PORT = 67, 68
SERVER_PORT6, CLIENT_PORT6 = 547, 546
ALL_SERVERS6 = bytes.fromhex("ff020000000000000000000000010002")
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
SUBNET_MASK, ROUTER, DNS, HOST_NAME, DOMAIN, MTU, BROADCAST = 1, 3, 6, 12, 15, 26, 28
REQUESTED_ADDRESS, LEASE_SECONDS, KIND, SERVER, RENEWAL_SECONDS, REBINDING_SECONDS = 50, 51, 53, 54, 58, 59
_PAD, _END = 0, 255
_FIXED = struct.Struct("!BBBBIHH4s4s4s4s16s64s128sI")
_COOKIE = 0x63825363
_MIN_BYTES = 300  # of BOOTP, RFC 1542 2.1: some clients still want it

INFORMATION_REQUEST, REPLY6 = 11, 7
CLIENT_ID6, SERVER_ID6, DNS6, SEARCH6 = 1, 2, 23, 24  # RFC 8415 21, RFC 3646


class Message(NamedTuple):
    """A BOOTP message; `options` by their number, in pieces joined (RFC 3396)."""

    operation: int
    transaction: int
    flags: int
    client: bytes
    yours: bytes
    hardware: bytes
    options: Mapping[int, bytes]

    @property
    def kind(self) -> int:
        """Of DHCP; 0 for none."""
        kind = self.options.get(KIND, b"")
        return kind[0] if len(kind) == 1 else 0

    def emit(self) -> bytes:
        head = _FIXED.pack(
            self.operation,
            1,
            6,
            0,
            self.transaction,
            0,
            self.flags,
            self.client,
            self.yours,
            bytes(4),
            bytes(4),
            self.hardware,
            b"",
            b"",
            _COOKIE,
        )
        for number, data in self.options.items():
            head += bytes([number, len(data)]) + data
        return (head + bytes([_END])).ljust(_MIN_BYTES, b"\0")


def parse(data: bytes | memoryview) -> Message | None:
    """None for what is no DHCP message of an Ethernet device."""
    data = bytes(data)
    if len(data) < _FIXED.size:
        return None
    operation, kind, length, _, transaction, _, flags, client, yours, _, _, hardware, _, _, cookie = _FIXED.unpack_from(
        data
    )
    if (kind, length, cookie) != (1, 6, _COOKIE):
        return None
    options: dict[int, bytes] = {}
    at = _FIXED.size
    while at < len(data) and data[at] != _END:
        if data[at] == _PAD:
            at += 1
            continue
        if at + 2 > len(data) or at + 2 + data[at + 1] > len(data):
            return None
        end = at + 2 + data[at + 1]
        options[data[at]] = options.get(data[at], b"") + data[at + 2 : end]
        at = end
    return Message(operation, transaction, flags, client, yours, hardware[:6], options)


def parse6(data: bytes | memoryview) -> tuple[int, bytes, dict[int, bytes]] | None:
    """(type, transaction, options) of a client's DHCPv6 message."""
    data = bytes(data)
    if len(data) < 4:
        return None
    options: dict[int, bytes] = {}
    at = 4
    while at + 4 <= len(data):
        number, length = struct.unpack_from("!HH", data, at)
        at += 4
        if at + length > len(data):
            return None
        options[number] = data[at : at + length]
        at += length
    return data[0], data[1:4], options


def emit6(kind: int, transaction: bytes, options: Mapping[int, bytes]) -> bytes:
    made = bytes([kind]) + transaction
    for number, data in options.items():
        made += struct.pack("!HH", number, len(data)) + data
    return made
