"""IPv6 headers (RFC 8200) with the extension headers that are passed over, and the fragment header."""

from __future__ import annotations

import struct

from slirp.wire.ip import MORE_FRAGMENTS, TTL, Packet

HEADER = struct.Struct("!IHBB16s16s")
HEADER_BYTES = 40
_VERSION = 6 << 28
_HOP_BY_HOP, _ROUTING, FRAGMENT, _DESTINATION_OPTIONS, _NO_NEXT = 0, 43, 44, 60, 59
_FRAGMENT_HEADER = struct.Struct("!BBHI")
EXTENSIONS = (_HOP_BY_HOP, _ROUTING, FRAGMENT, _DESTINATION_OPTIONS)
MAX_EXTENSIONS = 8


def parse(data: memoryview) -> Packet | None:
    """None for anything that is not a whole IPv6 packet with an upper layer, or is routed by its sender (RFC 5095)."""
    if len(data) < HEADER_BYTES:
        return None
    first, length, following, hops, source, destination = HEADER.unpack_from(data)
    end = HEADER_BYTES + length
    if first >> 28 != 6 or end > len(data):
        return None
    position = HEADER_BYTES
    identification = fragment = 0
    for _ in range(MAX_EXTENSIONS):
        if following in (_HOP_BY_HOP, _ROUTING, _DESTINATION_OPTIONS):
            if position + 8 > end:
                return None
            if following == _ROUTING and data[position + 3]:  # segments left
                return None
            following, skip = data[position], (data[position + 1] + 1) * 8
            position += skip
        elif following == FRAGMENT:
            if position + 8 > end:
                return None
            following, _, field, identification = _FRAGMENT_HEADER.unpack_from(data, position)
            position += 8
            fragment = field >> 3 | (MORE_FRAGMENTS if field & 1 else 0)
            if fragment:  # what follows is a part of something
                break
        elif following == _NO_NEXT:
            return None
        else:
            break
    else:
        return None
    if position > end:
        return None
    return Packet(source, destination, following, hops, identification, fragment, data[position:end])


def emit_header(source: bytes, destination: bytes, protocol: int, payload_bytes: int, hops: int = TTL) -> bytes:
    """A header without extensions."""
    return HEADER.pack(_VERSION, payload_bytes, protocol, hops, source, destination)


def emit_fragment_header(protocol: int, identification: int, fragment: int) -> bytes:
    """Follows a header whose protocol is FRAGMENT; `fragment` as in `ip.Packet`."""
    field = (fragment & 0x1FFF) << 3 | bool(fragment & MORE_FRAGMENTS)
    return _FRAGMENT_HEADER.pack(protocol, 0, field, identification)
