"""Data of a TCP flow that came before its turn. Pure."""

from __future__ import annotations

from slirp.stack.sequence import MASK, distance


class OutOfOrder:
    """Pieces kept until what is missing before them comes. At most `limit_bytes`: what is more is dropped, the guest
    sends it again."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._pieces: dict[int, bytes] = {}
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._pieces)

    def put(self, sequence: int, data: bytes | memoryview) -> None:
        known = self._pieces.get(sequence)
        if known is not None and len(known) >= len(data):
            return
        grown = len(data) - (len(known) if known is not None else 0)
        if self.held_bytes + grown > self._limit or len(self._pieces) >= 1024:
            return
        self._pieces[sequence] = bytes(data)
        self.held_bytes += grown

    def take(self, expected: int) -> bytes:
        """What can be delivered now that `expected` is the next byte, or b"". Pieces passed over are dropped."""
        for sequence in sorted(self._pieces, key=lambda s: distance(s, expected)):
            ahead = distance(sequence, expected)
            if ahead > 0:
                return b""
            piece = self._pieces.pop(sequence)
            self.held_bytes -= len(piece)
            if ahead + len(piece) > 0:
                return piece[-ahead & MASK :] if ahead else piece
        return b""
