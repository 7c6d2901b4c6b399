"""Connections of a guest that the network's process before this one had: they are to end, now.

All that is known of them is who talks to whom. So the guest is sent a segment that cannot be right: it answers with
where it stands (RFC 9293 3.10.7.4), and that, belonging to no connection here, gets the RST that the guest believes."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

from slirp.host.endpoint import Endpoint
from slirp.wire import tcp
from slirp.wire.checksum import checksum, pseudo_sum
from slirp.wire.ip import TCP

_WINDOW = 0x1000


def disturb(endpoint: Endpoint, flows: Iterable[str], outside: Callable[[bytes], bool]) -> None:
    """`flows` are "<local> <remote>" as /proc/net/tcp and tcp6 have them; `outside(address)` says whether connections
    to there pass here. Raises ValueError."""
    for text in flows:
        (local, local_port), (remote, remote_port) = map(_place, text.split())
        if not endpoint.owns(local) or not outside(remote):
            continue
        sequence, acknowledgment = secrets.randbits(32), secrets.randbits(32)
        plain = tcp.emit_header(remote_port, local_port, sequence, acknowledgment, tcp.ACK, _WINDOW)
        total = pseudo_sum(remote, local, TCP, len(plain))
        endpoint.send(remote, local, TCP, plain[:16] + checksum(plain, total).to_bytes(2, "big") + plain[18:])


def _place(text: str) -> tuple[bytes, int]:
    """("0200A8C0:1F90") -> (192.168.0.2, 8080): words of the machine's byte order, which is little here or the kernel
    would not print it so."""
    address, _, port = text.partition(":")
    packed = bytes.fromhex(address)
    packed = b"".join(packed[at : at + 4][::-1] for at in range(0, len(packed), 4))
    mapped = len(packed) == 16 and packed[:12] == bytes(10) + b"\xff\xff"  # an IPv4 connection of an IPv6 socket
    return packed[12:] if mapped else packed, int(port, 16)
