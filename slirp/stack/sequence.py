"""Sequence numbers modulo 2**32 (RFC 9293 3.4)."""

from __future__ import annotations

MASK = 0xFFFFFFFF


def distance(later: int, earlier: int) -> int:
    """How far `later` is after `earlier`, -2**31 … 2**31-1."""
    return ((later - earlier + 0x80000000) & MASK) - 0x80000000
