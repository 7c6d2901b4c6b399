"""Data of a TCP flow that came before its turn. Pure."""

from __future__ import annotations

from slirp.stack.sequence import MASK, distance

MAX_RUNS = 256


class OutOfOrder:
    """Runs of bytes kept until what is missing before them comes. At most `limit_bytes`: what is more is dropped, the
    guest sends it again. Positions are sequence numbers that do not wrap: counted from the first one seen."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._runs: list[tuple[int, bytearray]] = []  # by position, with gaps between them
        self._origin: int | None = None
        self._position = 0  # of `_origin`, the last sequence number that was looked at
        self._latest = 0  # the position of what came last
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._runs)

    def _unwrapped(self, sequence: int) -> int:
        if self._origin is None:
            self._origin = sequence
        return self._position + distance(sequence, self._origin)

    def put(self, sequence: int, data: bytes | memoryview) -> None:
        whole = data
        start = self._latest = self._unwrapped(sequence)
        runs = self._runs
        index = len(runs)
        while index and runs[index - 1][0] > start:  # nearly always the last one
            index -= 1
        before = runs[index - 1] if index else None
        if before is not None:
            known = before[0] + len(before[1]) - start
            if known > 0:
                data, start = data[known:], start + known
        if index < len(runs):
            behind = runs[index][0] + len(runs[index][1]) - start
            if len(data) > behind:  # it spans that run
                self.put((sequence + len(whole) - len(data) + behind) & MASK, data[behind:])
            data = data[: max(0, runs[index][0] - start)]
        if not len(data) or self.held_bytes + len(data) > self._limit:
            return
        if before is not None and before[0] + len(before[1]) == start:
            before[1].extend(data)
            grown = before
            index -= 1
        elif len(runs) >= MAX_RUNS:
            return
        else:
            grown = start, bytearray(data)
            runs.insert(index, grown)
        self.held_bytes += len(data)
        if index + 1 < len(runs) and runs[index + 1][0] == grown[0] + len(grown[1]):
            grown[1].extend(runs.pop(index + 1)[1])

    def take(self, expected: int) -> bytearray | memoryview | bytes:
        """What can be delivered now that `expected` is the next byte, or b"". What is passed over is dropped."""
        position = self._unwrapped(expected)
        self._origin, self._position = expected, position
        while self._runs and self._runs[0][0] <= position:
            start, data = self._runs.pop(0)
            self.held_bytes -= len(data)
            if start + len(data) > position:
                return memoryview(data)[position - start :] if start < position else data
        return b""

    def blocks(self, count: int) -> list[tuple[int, int]]:
        """The sequence numbers of up to `count` runs, first and after the last: for the guest, which then knows what
        is missing. The one that came last is the first (RFC 2018 4)."""
        if self._origin is None:
            return []
        shift = self._origin - self._position
        latest = [run for run in self._runs if run[0] <= self._latest < run[0] + len(run[1])]
        chosen = latest + [run for run in self._runs[:count] if run not in latest]
        return [((start + shift) & MASK, (start + len(data) + shift) & MASK) for start, data in chosen[:count]]
