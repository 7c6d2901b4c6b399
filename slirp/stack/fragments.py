"""Reassembly of IPv4 and IPv6 packets (RFC 791 3.2, RFC 8200 4.5), bounded. Pure: time is given."""

from __future__ import annotations

from slirp.wire.ip import MORE_FRAGMENTS, OFFSET_MASK, Packet

HOLD_SECONDS = 15.0
MAX_DATAGRAMS = 64
MAX_BYTES = 65535


class _Datagram:
    """`received` counts payload bytes; `total` is -1 until the last piece is here."""

    __slots__ = ("first_seen", "pieces", "received", "total")

    def __init__(self, now: float) -> None:
        self.pieces: dict[int, bytes] = {}
        self.received = 0
        self.total = -1
        self.first_seen = now


class Fragments:
    """Datagrams that are not whole yet, of one guest. Where there are too many the oldest goes: what it lacks has been
    lost, most likely."""

    def __init__(self) -> None:
        self._open: dict[tuple[bytes, bytes, int, int], _Datagram] = {}  # oldest first

    def __len__(self) -> int:
        return len(self._open)

    def put(self, packet: Packet, now: float) -> Packet | None:
        """The whole packet, when this was its last missing piece. Overlapping pieces drop the datagram (RFC 8200's
        rule, right for IPv4 too)."""
        key = packet.source, packet.destination, packet.protocol, packet.identification
        datagram = self._open.get(key)
        if datagram is not None and now - datagram.first_seen > HOLD_SECONDS:
            del self._open[key]
            datagram = None
        if datagram is None:
            if len(self._open) >= MAX_DATAGRAMS:
                del self._open[next(iter(self._open))]
            datagram = self._open[key] = _Datagram(now)
        offset = (packet.fragment & OFFSET_MASK) * 8
        more = bool(packet.fragment & MORE_FRAGMENTS)
        length = len(packet.payload)
        end = offset + length
        wrong = end > MAX_BYTES or (more and length % 8) or not length
        if not more:
            wrong = wrong or datagram.total not in (-1, end)
            datagram.total = end
        known = datagram.pieces.get(offset)
        if known is not None:
            wrong = wrong or known != packet.payload  # a copy is no overlap
        else:
            datagram.pieces[offset] = bytes(packet.payload)
            datagram.received += length
        if wrong or (datagram.total >= 0 and datagram.received > datagram.total):
            del self._open[key]
            return None
        if datagram.received != datagram.total:
            return None
        del self._open[key]
        whole = _joined(datagram)
        return packet._replace(fragment=0, payload=memoryview(whole)) if whole is not None else None

    def expire(self, now: float) -> None:
        """Drop what has waited too long."""
        for key in [key for key, datagram in self._open.items() if now - datagram.first_seen > HOLD_SECONDS]:
            del self._open[key]


def _joined(datagram: _Datagram) -> bytes | None:
    """The payload; None where the pieces, whose lengths are right together, do not fit."""
    parts = []
    position = 0
    for offset in sorted(datagram.pieces):
        if offset != position:
            return None
        parts.append(datagram.pieces[offset])
        position += len(parts[-1])
    return b"".join(parts)
