"""struct virtio_net_hdr_v1 (include/uapi/linux/virtio_net.h): what stands before every frame on the TAP."""

from __future__ import annotations

import struct

HEADER = struct.Struct("<BBHHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers
HEADER_BYTES = HEADER.size
NEEDS_CSUM, DATA_VALID = 1, 2
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 = 0, 1, 4, 5
GSO_ECN = 0x80

PLAIN = HEADER.pack(0, GSO_NONE, 0, 0, 0, 0, 0)


def partial(checksum_start: int, checksum_offset: int) -> bytes:
    """A frame whose checksum field holds the pseudo header's sum only; the receiver does the rest if it cares."""
    return HEADER.pack(NEEDS_CSUM, GSO_NONE, 0, 0, checksum_start, checksum_offset, 0)


def segmented(kind: int, header_bytes: int, segment_bytes: int, checksum_start: int, checksum_offset: int) -> bytes:
    """A packet larger than the MTU, to be cut into pieces of `segment_bytes` where that matters; `kind` is GSO_…."""
    return HEADER.pack(NEEDS_CSUM, kind, header_bytes, segment_bytes, checksum_start, checksum_offset, 0)


def checksum_is_partial(frame: bytes | memoryview | bytearray) -> bool:
    return bool(frame[0] & (NEEDS_CSUM | DATA_VALID))


def datagram_bytes(frame: bytes | memoryview | bytearray) -> int:
    """The size of each datagram of a frame that holds many (USO); 0 for any other."""
    return frame[4] | frame[5] << 8 if frame[1] == GSO_UDP_L4 else 0
