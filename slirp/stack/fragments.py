"""Reassembly of IPv4 and IPv6 packets (RFC 791 3.2, RFC 8200 4.5), bounded. Pure: time is given."""

from __future__ import annotations

from slirp.wire.ip import MORE_FRAGMENTS, OFFSET_MASK, Packet

HOLD_SECONDS = 15.0
MAX_DATAGRAMS = 64
MAX_BYTES = 65535


class _Datagram:
    def __init__(self, now: float) -> None:
        self.pieces: dict[int, bytes] = {}
        self.total = -1
        self.first_seen = now


class Fragments:
    """Datagrams that are not whole yet, of one guest."""

    def __init__(self) -> None:
        self._open: dict[tuple[bytes, bytes, int, int], _Datagram] = {}

    def put(self, packet: Packet, now: float) -> Packet | None:
        """The whole packet, when this was its last missing piece. Overlapping pieces drop the datagram (RFC 8200's
        rule, right for IPv4 too)."""
        self._expire(now)
        key = packet.source, packet.destination, packet.protocol, packet.identification
        datagram = self._open.get(key)
        if datagram is None:
            if len(self._open) >= MAX_DATAGRAMS:
                return None
            datagram = self._open[key] = _Datagram(now)
        offset = (packet.fragment & OFFSET_MASK) * 8
        more = bool(packet.fragment & MORE_FRAGMENTS)
        end = offset + len(packet.payload)
        if end > MAX_BYTES or (more and len(packet.payload) % 8) or not len(packet.payload):
            del self._open[key]
            return None
        if not more:
            datagram.total = end
        datagram.pieces[offset] = bytes(packet.payload)
        whole = self._whole(datagram)
        if whole is None:
            return None
        del self._open[key]
        if not whole:
            return None
        return packet._replace(fragment=0, payload=memoryview(whole))

    def _whole(self, datagram: _Datagram) -> bytes | None:
        """The payload; None while pieces are missing; b"" where they do not fit together."""
        if datagram.total < 0:
            return None
        parts = []
        position = 0
        for offset in sorted(datagram.pieces):
            if offset > position:
                return None
            if offset < position:
                return b""
            parts.append(datagram.pieces[offset])
            position += len(datagram.pieces[offset])
        if position < datagram.total:
            return None
        return b"".join(parts) if position == datagram.total else b""

    def _expire(self, now: float) -> None:
        for key in [key for key, datagram in self._open.items() if now - datagram.first_seen > HOLD_SECONDS]:
            del self._open[key]
