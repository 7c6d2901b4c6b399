"""What the guest has said it has out of turn (selective acknowledgments, RFC 2018). Pure. Used by `tcp_flow`."""

from __future__ import annotations

from collections.abc import Iterable

from slirp.stack.sequence import MASK, distance

MAX_BLOCKS = 64  # that are remembered


class Scoreboard:
    """Blocks (first sequence number, the one after the last), apart from each other and in order."""

    __slots__ = ("_blocks",)

    def __init__(self) -> None:
        self._blocks: list[tuple[int, int]] = []

    def add(self, told: Iterable[tuple[int, int]], unacknowledged: int, sent: int) -> None:
        """No block is believed that is not of the `sent` bytes after `unacknowledged`."""

        def ahead(blocks: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
            return [(distance(first, unacknowledged), distance(after, unacknowledged)) for first, after in blocks]

        fresh = [(first, after) for first, after in ahead(told) if 0 < first < after <= sent]
        if not fresh:
            return
        merged: list[tuple[int, int]] = []
        for first, after in sorted(fresh + [block for block in ahead(self._blocks) if block[0] > 0]):
            if merged and first <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(after, merged[-1][1])
            else:
                merged.append((first, after))
        una = unacknowledged
        self._blocks = [((una + first) & MASK, (una + after) & MASK) for first, after in merged[:MAX_BLOCKS]]

    def hole_bytes(self, unacknowledged: int, otherwise: int) -> int:
        """How much is missing at `unacknowledged`, as far as the guest has told."""
        while self._blocks:
            ahead = distance(self._blocks[0][0], unacknowledged)
            if ahead > 0:
                return ahead
            self._blocks.pop(0)
        return otherwise

    def has_beyond(self, sequence: int) -> bool:
        """Whether the guest has something from this number on."""
        return bool(self._blocks) and distance(self._blocks[-1][1], sequence) > 0

    def clear(self) -> None:
        """A guest may take it back (RFC 2018 8)."""
        self._blocks.clear()
