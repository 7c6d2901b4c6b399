"""The maps of GNU tar's sparse members: which pieces of a file are stored. Pure.

Source: GNU tar manual, "Storing Sparse Files": the old format (type S), PAX 0.0, 0.1 and 1.0. A map is a list of
(offset in the file, bytes), in order; the pieces lie one after the other in the archive."""

from __future__ import annotations

from collections.abc import Sequence

from fuse_overlay.errors import LayerError

Pieces = list[tuple[int, int]]
MAX_PIECES = 1 << 20
_FIELD = 12  # bytes of a number in the old format
_IN_HEADER, _IN_EXTENSION = 4, 21  # pieces in a header and in a block behind it


def from_header(block: bytes) -> tuple[list[bytes], int, bytes]:
    """Of a member of type S: (its numbers, bytes 482: whether blocks follow, the file's size as it is written)."""
    return _fields(block, 386, _IN_HEADER), block[482], block[483:495]


def from_extension(block: bytes) -> tuple[list[bytes], int]:
    """Of a block behind it: (numbers, whether another follows)."""
    return _fields(block, 0, _IN_EXTENSION), block[504]


def _fields(block: bytes, start: int, pieces: int) -> list[bytes]:
    fields = [block[start + _FIELD * i : start + _FIELD * (i + 1)] for i in range(2 * pieces)]
    while fields and not fields[-1].strip(b"\0 ") and not fields[-2].strip(b"\0 "):
        del fields[-2:]  # unused
    return fields


def complete(text: bytes | bytearray) -> bool:
    """Whether a map of format 1.0 (lines: how many, then offset and bytes of each) has come in whole.

    Raises LayerError for one that is none, or too long."""
    end = text.find(b"\n")
    if end < 0:
        if len(text) > 20:
            raise LayerError("corrupt archive: the map of a sparse member does not begin with a number")
        return False
    count = number(bytes(text[:end]))
    if count > MAX_PIECES:
        raise LayerError(f"a sparse member of {count} pieces")
    return text.count(b"\n") > 2 * count


def from_lines(text: bytes | bytearray) -> list[int]:
    """The numbers of a complete map of format 1.0, without their count. Raises LayerError."""
    lines = bytes(text).split(b"\n")
    return [number(line) for line in lines[1 : 1 + 2 * number(lines[0])]]


def number(text: bytes) -> int:
    """Raises LayerError."""
    if not text.isdigit() or len(text) > 20:
        raise LayerError("corrupt archive: bad number in the map of a sparse member")
    return int(text)


def checked(numbers: Sequence[int], size: int, stored: int, at: int) -> Pieces:
    """The pieces of a file of `size` bytes of which `stored` bytes lie in the archive at byte `at`. Raises LayerError
    for a map that lies."""
    if len(numbers) % 2 or len(numbers) > 2 * MAX_PIECES:
        raise LayerError(f"corrupt archive: bad map of a sparse member at byte {at}")
    pieces: Pieces = []
    end = total = 0
    for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
        if offset < end or length < 0 or offset + length > size:
            raise LayerError(f"corrupt archive: the map of a sparse member at byte {at} lies")
        end = offset + length
        total += length
        if length:
            pieces.append((offset, length))
    if total > stored:
        raise LayerError(f"corrupt archive: a sparse member at byte {at} stores {stored} bytes of {total}")
    return pieces
