"""Names of the containers on a network, and the answers to questions about them. Pure.

The default network has none: there, as with docker, a name is only an address's if the host's resolver says so."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from slirp.wire import dns

TTL_SECONDS = 5  # a container may be started again with another address
_REVERSE = ".in-addr.arpa"


class Names:
    """A name may be several endpoints', an endpoint may have several names; its first is what its address is called."""

    def __init__(self) -> None:
        self._addresses: dict[str, list[bytes]] = {}
        self._first: dict[bytes, str] = {}

    def add(self, address: bytes, names: Iterable[str]) -> None:
        """Names that cannot be one in DNS are left out."""
        for name in names:
            try:
                dns.emit_name(name)
            except ValueError:
                continue
            self._addresses.setdefault(name.lower(), []).append(address)
            self._first.setdefault(address, name)

    def remove(self, address: bytes) -> None:
        self._first.pop(address, None)
        for name, addresses in list(self._addresses.items()):
            kept = [known for known in addresses if known != address]
            if kept:
                self._addresses[name] = kept
            else:
                del self._addresses[name]

    def answer(self, query: bytes) -> bytes | None:
        """What to send back, or None for a name that is not ours. A name of ours has no records but A."""
        asked = dns.question(query) if self._addresses else None
        if asked is None:
            return None
        if asked.kind == dns.PTR and asked.name.endswith(_REVERSE):
            name = self._first.get(_reversed(asked.name))
            return dns.emit_answers(query, asked, [dns.emit_name(name)], TTL_SECONDS) if name else None
        addresses = self._addresses.get(asked.name)
        if addresses is None:
            return None
        return dns.emit_answers(query, asked, addresses if asked.kind == dns.A else [], TTL_SECONDS)


def _reversed(name: str) -> bytes:
    """The address a name like 2.0.17.172.in-addr.arpa is about; b"" for none."""
    try:
        return ipaddress.IPv4Address(".".join(reversed(name.removesuffix(_REVERSE).split(".")))).packed
    except ValueError:
        return b""
