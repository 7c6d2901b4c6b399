"""TCP segments (RFC 9293 3.1) with the options that matter here: maximum segment size, window scale (RFC 7323),
selective acknowledgments (RFC 2018)."""

from __future__ import annotations

import struct
from typing import NamedTuple

HEADER = struct.Struct("!HHIIBBHHH")
HEADER_BYTES = 20
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 1, 2, 4, 8, 16, 32, 64, 128
MAX_WINDOW_SHIFT = 14
MAX_BLOCKS = 4  # selective acknowledgments that fit into the options of a segment
DEFAULT_MSS = 536  # RFC 9293 3.7.1: where the peer names none


class Segment(NamedTuple):
    """`window` as it stands in the header, unscaled. `options` raw."""

    source_port: int
    destination_port: int
    sequence: int
    acknowledgment: int
    flags: int
    window: int
    options: bytes
    payload: memoryview


class Options(NamedTuple):
    """`window_shift` is -1 where the peer does not scale."""

    mss: int
    window_shift: int
    selective: bool = False


def parse(data: memoryview) -> Segment | None:
    """None for what is shorter than it says. The checksum is the caller's."""
    if len(data) < HEADER_BYTES:
        return None
    source_port, destination_port, sequence, acknowledgment, offset, flags, window, _, _ = HEADER.unpack_from(data)
    header_bytes = (offset >> 4) * 4
    if not HEADER_BYTES <= header_bytes <= len(data):
        return None
    options = bytes(data[HEADER_BYTES:header_bytes]) if header_bytes > HEADER_BYTES else b""
    return Segment(source_port, destination_port, sequence, acknowledgment, flags, window, options, data[header_bytes:])


def parse_options(options: bytes) -> Options:
    """Of a SYN; what is malformed ends the list."""
    mss, shift, selective = DEFAULT_MSS, -1, False
    position = 0
    while position < len(options):
        kind = options[position]
        if kind == 0:
            break
        if kind == 1:
            position += 1
            continue
        if position + 1 >= len(options):
            break
        length = options[position + 1]
        if length < 2 or position + length > len(options):
            break
        if kind == 2 and length == 4:
            mss = max(64, int.from_bytes(options[position + 2 : position + 4], "big"))
        elif kind == 3 and length == 3:
            shift = min(options[position + 2], MAX_WINDOW_SHIFT)
        elif kind == 4 and length == 2:
            selective = True
        position += length
    return Options(mss, shift, selective)


def parse_blocks(options: bytes) -> list[tuple[int, int]]:
    """The selective acknowledgments of a segment: first sequence number, and the one after the last. MAX_BLOCKS at
    most; what is malformed ends the list."""
    position = 0
    while position + 1 < len(options):
        kind, length = options[position], options[position + 1]
        if kind == 1:
            position += 1
            continue
        if kind == 0 or length < 2 or position + length > len(options):
            break
        if kind == 5:
            count = min(MAX_BLOCKS, (length - 2) // 8)
            return [struct.unpack_from("!II", options, position + 2 + 8 * number) for number in range(count)]
        position += length
    return []


def emit_blocks(blocks: list[tuple[int, int]]) -> bytes:
    """Of MAX_BLOCKS at most; b"" for none."""
    if not blocks:
        return b""
    return struct.pack("!BBBB", 1, 1, 5, 2 + 8 * len(blocks)) + b"".join(struct.pack("!II", *block) for block in blocks)


def emit_options(options: Options) -> bytes:
    """For our SYN: the size, and the scale where wanted, padded to four bytes."""
    made = struct.pack("!BBH", 2, 4, options.mss)
    if options.window_shift >= 0:
        made += struct.pack("!BBBB", 3, 3, options.window_shift, 1)
    if options.selective:
        made += struct.pack("!BBBB", 4, 2, 1, 1)
    return made


def emit_header(
    source_port: int,
    destination_port: int,
    sequence: int,
    acknowledgment: int,
    flags: int,
    window: int,
    options: bytes = b"",
    checksum: int = 0,
) -> bytes:
    """`checksum` is put in as it is."""
    offset = (HEADER_BYTES + len(options)) << 2
    return (
        HEADER.pack(source_port, destination_port, sequence, acknowledgment, offset & 0xF0, flags, window, checksum, 0)
        + options
    )
