"""Large buffers for data on its way to one guest, used again and bounded."""

from __future__ import annotations

SIZE = 65535 - 14 - 40 - 20  # with Ethernet, IPv6 and TCP headers; a veth takes no more in one piece


HELD_BYTES = 64 << 20


class BufferPool:
    """At most `limit` buffers of SIZE bytes, and `held_limit` bytes of what the guest's flows keep besides."""

    def __init__(self, limit: int = 512, held_limit: int = HELD_BYTES) -> None:
        self._free: list[memoryview] = []
        self._left = limit
        self._held_limit = self._held_left = held_limit

    @property
    def held_bytes(self) -> int:
        return self._held_limit - self._held_left

    def take(self) -> memoryview | None:
        if self._free:
            return self._free.pop()
        if self._left <= 0:
            return None
        self._left -= 1
        return memoryview(bytearray(SIZE))

    def give(self, buffer: memoryview) -> None:
        self._free.append(buffer)

    def hold(self, count: int) -> bool:
        if count > self._held_left:
            return False
        self._held_left -= count
        return True

    def release(self, count: int) -> None:
        self._held_left += count
