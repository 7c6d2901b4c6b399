"""Large buffers for data on its way to one guest, used again and bounded."""

from __future__ import annotations

SIZE = 65535 - 20 - 20  # the payload of the largest IPv4 packet


class BufferPool:
    """At most `limit` buffers of SIZE bytes."""

    def __init__(self, limit: int = 512) -> None:
        self._free: list[memoryview] = []
        self._left = limit

    def take(self) -> memoryview | None:
        if self._free:
            return self._free.pop()
        if self._left <= 0:
            return None
        self._left -= 1
        return memoryview(bytearray(SIZE))

    def give(self, buffer: memoryview) -> None:
        self._free.append(buffer)
