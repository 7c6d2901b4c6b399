"""Bytes sent to the guest, until it has acknowledged them. Pure. Used by `tcp_flow`."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator

from slirp.stack.sequence import distance
from slirp.stack.sides import Buffers


class _Chunk:
    """What one read of the host's socket gave."""

    __slots__ = ("buffer", "data", "length", "sent_at", "sequence")

    def __init__(
        self, sequence: int, data: bytes | memoryview, length: int, buffer: memoryview | None, now: float
    ) -> None:
        self.sequence = sequence
        self.data = data
        self.length = length
        self.buffer = buffer
        self.sent_at = now


class Kept:
    """In the order it was sent, without gaps."""

    __slots__ = ("_buffers", "_chunks")

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._chunks: deque[_Chunk] = deque()

    def keep(self, sequence: int, data: bytes | memoryview, length: int, buffer: memoryview | None, now: float) -> None:
        """`buffer` is where `data` stands, given back with it; None where it was held (`Buffers.hold`)."""
        self._chunks.append(_Chunk(sequence, data, length, buffer, now))

    def acknowledged(self, acknowledgment: int) -> float:
        """Let go of what comes before this number. When the last of it was first sent; -1 for nothing whole."""
        chunks, sent_at = self._chunks, -1.0
        while chunks and distance(acknowledgment, chunks[0].sequence) >= chunks[0].length:
            chunk = chunks.popleft()
            self._let_go(chunk)
            sent_at = chunk.sent_at
        return sent_at

    def _let_go(self, chunk: _Chunk) -> None:
        if chunk.buffer is not None:
            self._buffers.give(chunk.buffer)
        else:
            self._buffers.release(chunk.length)

    def at(self, sequence: int, limit: int, gather: int) -> bytes | memoryview:
        """Up to `limit` bytes from this number on, b"" where there are none. Small pieces are put together up to
        `gather` bytes."""
        chunks = self._chunks
        if not chunks:
            return b""
        origin = chunks[0].sequence
        wanted = distance(sequence, origin)
        index = bisect_right(chunks, wanted, key=lambda chunk: distance(chunk.sequence, origin)) - 1
        chunk = chunks[max(0, index)]
        start = distance(sequence, chunk.sequence)
        if not 0 <= start < chunk.length:
            return b""
        found = chunk.data[start : start + limit]
        missing = min(limit, gather) - len(found)
        if missing <= 0:
            return found
        parts = [found]
        for later in range(index + 1, len(chunks)):
            parts.append(chunks[later].data[:missing])
            missing -= len(parts[-1])
            if not missing:
                break
        return b"".join(parts)

    def sendings(self, sequence: int) -> Iterator[tuple[int, float]]:
        """How much was sent from this number on, and when."""
        for chunk in self._chunks:
            yield chunk.length - max(0, distance(sequence, chunk.sequence)), chunk.sent_at

    def clear(self) -> None:
        for chunk in self._chunks:
            self._let_go(chunk)
        self._chunks.clear()
