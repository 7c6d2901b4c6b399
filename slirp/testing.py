"""Fakes for tests: a host side in memory, and a link that loses, doubles, delays and reorders what passes over it."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass

from slirp.host.buffers import SIZE
from slirp.stack.tcp_flow import HostReset
from slirp.wire.tcp import Segment


class PlainBuffers:
    """Counts what is out, and what is held of `limit` bytes."""

    def __init__(self, limit: int = 1 << 40) -> None:
        self.out = 0
        self.held, self.limit = 0, limit

    def take(self) -> memoryview | None:
        self.out += 1
        return memoryview(bytearray(SIZE))

    def give(self, buffer: memoryview) -> None:
        self.out -= 1

    def hold(self, count: int) -> bool:
        if self.held + count > self.limit:
            return False
        self.held += count
        return True

    def release(self, count: int) -> None:
        self.held -= count
        assert self.held >= 0


class MemoryHost:
    """A host's socket: gives `data` in pieces, then its end; takes at most `capacity` bytes until `drain`."""

    def __init__(self, data: bytes = b"", *, ends: bool = True, capacity: int = 1 << 30) -> None:
        self.data = data
        self.ends = ends
        self.capacity = capacity
        self.received = bytearray()
        self.finished = False
        self.closed: bool | None = None  # True: with a reset
        self.wants = (False, False)
        self.broken = False

    def read_into(self, view: memoryview) -> int | None:
        if self.broken:
            raise HostReset("broken")
        if not self.data:
            return 0 if self.ends else None
        count = min(len(view), len(self.data))
        view[:count] = self.data[:count]
        self.data = self.data[count:]
        return count

    def write(self, data: bytes | memoryview) -> int:
        if self.broken:
            raise HostReset("broken")
        count = min(len(data), self.capacity)
        self.received += data[:count]
        self.capacity -= count
        return count

    def drain(self, count: int) -> None:
        self.capacity += count

    def finish(self) -> None:
        self.finished = True

    def close(self, reset: bool) -> None:
        self.closed = reset

    def want(self, read: bool, write: bool) -> None:
        self.wants = read, write


@dataclass(frozen=True)
class Faults:
    """Shares, 0 … 1, and the longest delay in seconds (which is what reorders)."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_seconds: float = 0.0


class FaultyLink:
    """One direction. Time is the caller's: `deliver(now)` hands over what is due."""

    def __init__(self, faults: Faults, rng: random.Random) -> None:
        self._faults, self._random = faults, rng
        self._queue: list[tuple[float, int, Segment]] = []
        self._count = 0
        self.receiver: Callable[[Segment, float], None] | None = None
        self.now = 0.0

    def transmit(
        self,
        flags: int,
        sequence: int,
        acknowledgment: int,
        window: int,
        options: bytes,
        payload: bytes | memoryview,
        mss: int,
    ) -> None:
        segment = Segment(1, 2, sequence, acknowledgment, flags, window, options, memoryview(bytes(payload)))
        copies = 1 + (self._random.random() < self._faults.duplication)
        for _ in range(copies):
            if self._random.random() >= self._faults.loss:
                due = self.now + 1e-4 + self._random.random() * self._faults.delay_seconds
                self._count += 1
                heapq.heappush(self._queue, (due, self._count, segment))

    @property
    def next_due(self) -> float:
        return self._queue[0][0] if self._queue else float("inf")

    def deliver(self, now: float) -> None:
        while self._queue and self._queue[0][0] <= now:
            _, _, segment = heapq.heappop(self._queue)
            if self.receiver is not None:
                self.receiver(segment, now)
