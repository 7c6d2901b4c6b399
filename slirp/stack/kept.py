"""Bytes sent to the guest, until it has acknowledged them. Pure. Used by `outgoing`."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator

from slirp.stack.sequence import MASK, distance
from slirp.stack.sides import Buffers

# What one read of the host's socket gave: sequence number, data, length, buffer, when it was first sent. A plain tuple,
# as it is made and taken apart for every answer.
_Chunk = tuple[int, bytes | memoryview, int, memoryview | None, float]


class Kept:
    """In the order it was sent, without gaps."""

    __slots__ = ("_buffers", "_chunks")

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._chunks: deque[_Chunk] = deque()

    def keep(self, sequence: int, data: bytes | memoryview, length: int, buffer: memoryview | None, now: float) -> None:
        """`buffer` is where `data` stands, given back with it; None where it was held (`Buffers.hold`)."""
        self._chunks.append((sequence, data, length, buffer, now))

    def acknowledged(self, acknowledgment: int) -> float:
        """Let go of what comes before this number. When the last of it was first sent; -1 for nothing whole."""
        chunks, found = self._chunks, -1.0
        while chunks:
            sequence, _, length, buffer, sent_at = chunks[0]
            if not length <= (acknowledgment - sequence) & MASK <= MASK >> 1:
                break
            chunks.popleft()
            self._let_go(length, buffer)
            found = sent_at
        return found

    def _let_go(self, length: int, buffer: memoryview | None) -> None:
        if buffer is not None:
            self._buffers.give(buffer)
        else:
            self._buffers.release(length)

    def at(self, sequence: int, limit: int, gather: int) -> bytes | memoryview:
        """Up to `limit` bytes from this number on, b"" where there are none. Small pieces are put together up to
        `gather` bytes."""
        chunks = self._chunks
        if not chunks:
            return b""
        origin = chunks[0][0]
        wanted = distance(sequence, origin)
        index = max(0, bisect_right(chunks, wanted, key=lambda chunk: distance(chunk[0], origin)) - 1)
        first, data, length, _, _ = chunks[index]
        start = distance(sequence, first)
        if not 0 <= start < length:
            return b""
        found = data[start : start + limit]
        missing = min(limit, gather) - len(found)
        if missing <= 0:
            return found
        parts = [found]
        for later in range(index + 1, len(chunks)):
            parts.append(chunks[later][1][:missing])
            missing -= len(parts[-1])
            if not missing:
                break
        return b"".join(parts)

    def sendings(self, sequence: int) -> Iterator[tuple[int, float]]:
        """How much was sent from this number on, and when."""
        for first, _, length, _, sent_at in self._chunks:
            yield length - max(0, distance(sequence, first)), sent_at

    def clear(self) -> None:
        for _, _, length, buffer, _ in self._chunks:
            self._let_go(length, buffer)
        self._chunks.clear()
