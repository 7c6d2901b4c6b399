"""Fakes for tests: a host side in memory, and a link for segments and a wire for frames that lose, double, reorder and
spoil what passes over them."""

from __future__ import annotations

import heapq
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass

from slirp.host.buffers import SIZE
from slirp.stack.sides import HostReset
from slirp.wire import ethernet, virtio
from slirp.wire.checksum import checksum, fold, pseudo_sum
from slirp.wire.tcp import Segment


class PlainBuffers:
    """Of `size` bytes each. Counts what is out, and what is held of `limit` bytes."""

    def __init__(self, limit: int = 1 << 40, size: int = SIZE) -> None:
        self.out, self.size = 0, size
        self.held, self.limit = 0, limit

    def take(self) -> memoryview | None:
        self.out += 1
        return memoryview(bytearray(self.size))

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

    def read_into(self, views: list[memoryview]) -> int | None:
        if self.broken:
            raise HostReset("broken")
        if not self.data:
            return 0 if self.ends else None
        before = len(self.data)
        for view in views:
            count = min(len(view), len(self.data))
            view[:count] = self.data[:count]
            self.data = self.data[count:]
        return before - len(self.data)

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
    """Shares, 0 … 1, and the longest delay in seconds (which is what reorders segments; of frames a share is held back
    behind those that follow)."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_seconds: float = 0.0
    corruption: float = 0.0
    reordering: float = 0.0
    room: int = 1 << 40  # bytes of payload that may be on the way


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
    ) -> bool:
        segment = Segment(1, 2, sequence, acknowledgment, flags, window, options, memoryview(bytes(payload)))
        if payload and sum(len(waiting.payload) for _, _, waiting in self._queue) > self._faults.room:
            return False
        copies = 1 + (self._random.random() < self._faults.duplication)
        for _ in range(copies):
            if self._random.random() >= self._faults.loss:
                due = self.now + 1e-4 + self._random.random() * self._faults.delay_seconds
                self._count += 1
                heapq.heappush(self._queue, (due, self._count, segment))
        return True

    @property
    def next_due(self) -> float:
        return self._queue[0][0] if self._queue else float("inf")

    def deliver(self, now: float) -> None:
        while self._queue and self._queue[0][0] <= now:
            _, _, segment = heapq.heappop(self._queue)
            if self.receiver is not None:
                self.receiver(segment, now)


_KIND, _ARP = virtio.HEADER_BYTES + 12, ethernet.ARP.to_bytes(2, "big")


class FaultyWire:
    """One direction of a wire for whole frames with virtio headers, whose checksums are complete."""

    def __init__(self, faults: Faults, rng: random.Random) -> None:
        self._faults, self._random = faults, rng
        self._held: list[bytes] = []

    def carry(self, frame: bytes) -> list[bytes]:
        """What arrives when this is sent."""
        faults, chance = self._faults, self._random.random
        if chance() < faults.loss:
            return []
        if chance() < faults.corruption:
            if frame[_KIND : _KIND + 2] == _ARP:
                return []  # nothing but Ethernet's own checksum protects it: a device drops it
            position = self._random.randrange(virtio.HEADER_BYTES, len(frame))
            frame = (
                frame[:position] + bytes((frame[position] ^ self._random.randrange(1, 256),)) + frame[position + 1 :]
            )
        if chance() < faults.reordering and len(self._held) < 8:
            self._held.append(frame)
            return []
        arrived = [frame] * (1 + (chance() < faults.duplication))
        if self._held and chance() < 0.5:
            arrived += self._held
            self._held = []
        return arrived


def on_the_wire(frame: bytes) -> list[bytes]:
    """A frame as a device without offload would send it: cut into segments (TCP), with complete checksums."""
    flags, kind, header_bytes, size, start, offset, _ = virtio.HEADER.unpack_from(frame)
    if not flags & virtio.NEEDS_CSUM:
        return [frame]
    data = frame[virtio.HEADER_BYTES :]
    if kind not in (virtio.GSO_TCPV4, virtio.GSO_TCPV6):
        return [virtio.PLAIN + _with_checksum(data, start, offset)]
    head, payload = data[:header_bytes], data[header_bytes:]
    made = []
    for position in range(0, len(payload), size):
        piece = payload[position : position + size]
        header = bytearray(head)
        length = header_bytes - start + len(piece)
        (sequence,) = struct.unpack_from("!I", header, start + 4)
        struct.pack_into("!I", header, start + 4, (sequence + position) & 0xFFFFFFFF)
        if kind == virtio.GSO_TCPV4:
            struct.pack_into("!H", header, 16, start - 14 + length)
            struct.pack_into("!H", header, 24, 0)
            struct.pack_into("!H", header, 24, checksum(bytes(header[14:start])))
            addresses = bytes(header[26:34])
        else:
            struct.pack_into("!H", header, 18, length)
            addresses = bytes(header[22:54])
        half = len(addresses) // 2
        struct.pack_into("!H", header, start + offset, fold(pseudo_sum(addresses[:half], addresses[half:], 6, length)))
        made.append(virtio.PLAIN + _with_checksum(bytes(header) + piece, start, offset))
    return made


def _with_checksum(data: bytes, start: int, offset: int) -> bytes:
    """The field holds the pseudo header's sum."""
    at = start + offset
    return data[:at] + struct.pack("!H", checksum(data[start:]) or 0xFFFF) + data[at + 2 :]
