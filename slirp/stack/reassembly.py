"""Data of a TCP flow that came before its turn. Pure."""

from __future__ import annotations

from heapq import nlargest

from slirp.stack.sequence import MASK, distance

MAX_RUNS = 256


class _Run:
    """`told` grows with what came last."""

    __slots__ = ("data", "start", "told")

    def __init__(self, start: int, data: bytes | memoryview) -> None:
        self.start, self.data, self.told = start, bytearray(data), 0

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class OutOfOrder:
    """Runs of bytes kept until what is missing before them comes. At most `limit_bytes`: what is more is dropped, the
    guest sends it again. Positions are sequence numbers that do not wrap: counted from the first one seen."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._runs: list[_Run] = []  # by position, with gaps between them
        self._origin: int | None = None
        self._position = 0  # of `_origin`, the last sequence number that was looked at
        self._count = 0  # of pieces put
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._runs)

    def _unwrapped(self, sequence: int) -> int:
        if self._origin is None:
            self._origin = sequence
        return self._position + distance(sequence, self._origin)

    def put(self, sequence: int, data: bytes | memoryview) -> None:
        """Keep what is new of it, while there is room."""
        position = self._unwrapped(sequence)
        self._insert(position, data)
        self._count += 1
        for run in reversed(self._runs):
            if run.start <= position:
                run.told = self._count
                break

    def _insert(self, start: int, data: bytes | memoryview) -> None:
        runs = self._runs
        index = len(runs)
        while index and runs[index - 1].start > start:  # nearly always the last one
            index -= 1
        before = runs[index - 1] if index else None
        if before is not None and before.end > start:
            known = before.end - start
            data, start = data[known:], start + known
        if index < len(runs):
            behind = runs[index].end - start
            if len(data) > behind:  # it spans that run
                self._insert(start + behind, data[behind:])
            data = data[: max(0, runs[index].start - start)]
        if not len(data) or self.held_bytes + len(data) > self._limit:
            return
        if before is not None and before.end == start:
            before.data.extend(data)
            grown = before
            index -= 1
        elif len(runs) >= MAX_RUNS:
            return
        else:
            grown = _Run(start, data)
            runs.insert(index, grown)
        self.held_bytes += len(data)
        if index + 1 < len(runs) and runs[index + 1].start == grown.end:
            joined = runs.pop(index + 1)
            grown.data.extend(joined.data)
            grown.told = max(grown.told, joined.told)

    def take(self, expected: int) -> bytearray | memoryview | bytes:
        """What can be delivered now that `expected` is the next byte, or b"". What is passed over is dropped."""
        position = self._unwrapped(expected)
        self._origin, self._position = expected, position
        while self._runs and self._runs[0].start <= position:
            run = self._runs.pop(0)
            self.held_bytes -= len(run.data)
            if run.end > position:
                return memoryview(run.data)[position - run.start :] if run.start < position else run.data
        return b""

    def blocks(self, count: int) -> list[tuple[int, int]]:
        """The sequence numbers of up to `count` runs, first and after the last: for the guest, which then knows what
        is missing. Those that came last are the first, so that each is told of several times (RFC 2018 4)."""
        if self._origin is None or not self._runs:
            return []
        shift = self._origin - self._position
        chosen = nlargest(count, self._runs, key=lambda run: run.told)
        return [((run.start + shift) & MASK, (run.end + shift) & MASK) for run in chosen]
