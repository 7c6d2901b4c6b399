"""ICMPv6 (RFC 4443): echo and errors. Its messages have ICMP's shape, its checksum covers the addresses."""

from __future__ import annotations

import struct

from slirp.wire import icmp, ipv6
from slirp.wire.checksum import checksum, pseudo_sum
from slirp.wire.icmp import HEADER_BYTES, Message
from slirp.wire.ip import ICMPV6

_HEADER = struct.Struct("!BBHHH")
UNREACHABLE, PACKET_TOO_BIG, TIME_EXCEEDED, PARAMETER_PROBLEM = 1, 2, 3, 4
ECHO, ECHO_REPLY = 128, 129
NO_ROUTE, PROHIBITED, ADDRESS_UNREACHABLE, PORT_UNREACHABLE = 0, 1, 3, 4
UNRECOGNIZED_NEXT_HEADER = 1
MIN_MTU = 1280  # an error is never larger, RFC 4443 2.4 (c)
_FROM_IPV4 = {  # codes of "unreachable", RFC 7915 4.2
    icmp.NET_UNREACHABLE: NO_ROUTE,
    icmp.HOST_UNREACHABLE: ADDRESS_UNREACHABLE,
    icmp.PORT_UNREACHABLE: PORT_UNREACHABLE,
    icmp.ADMINISTRATIVELY_PROHIBITED: PROHIBITED,
}


def parse(source: bytes, destination: bytes, data: memoryview) -> Message | None:
    """None where the checksum is wrong or it is too short."""
    if len(data) < HEADER_BYTES or checksum(data, pseudo_sum(source, destination, ICMPV6, len(data))):
        return None
    kind, code, _, identifier, sequence = _HEADER.unpack_from(data)
    return Message(kind, code, identifier, sequence, bytes(data[HEADER_BYTES:]))


def emit(source: bytes, destination: bytes, message: Message) -> bytes:
    plain = _HEADER.pack(message.kind, message.code, 0, message.identifier, message.sequence) + message.payload
    value = checksum(plain, pseudo_sum(source, destination, ICMPV6, len(plain)))
    return plain[:2] + struct.pack("!H", value) + plain[4:]


def unreachable(code: int, packet: bytes, next_hop_mtu: int = 0) -> Message:
    """About `packet` (header and payload); `code` is IPv4's, its meaning is kept."""
    quoted = packet[: MIN_MTU - ipv6.HEADER_BYTES - HEADER_BYTES]
    if code == icmp.FRAGMENTATION_NEEDED:
        mtu = max(MIN_MTU, next_hop_mtu)
        return Message(PACKET_TOO_BIG, 0, mtu >> 16, mtu & 0xFFFF, quoted)
    if code == icmp.PROTOCOL_UNREACHABLE:
        return Message(PARAMETER_PROBLEM, UNRECOGNIZED_NEXT_HEADER, 0, 6, quoted)  # 6: offset of the next header field
    return Message(UNREACHABLE, _FROM_IPV4.get(code, NO_ROUTE), 0, 0, quoted)
