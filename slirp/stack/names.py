"""Names of the containers on a network, and the answers to questions about them. Pure.

The default network has none: there, as with docker, a name is only an address's if the host's resolver says so. Every
guest may have names that it alone sees: its links, and its neighbours on other networks."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from slirp.wire import dns

TTL_SECONDS = 5  # a container may be started again with another address
_REVERSE4, _REVERSE6 = ".in-addr.arpa", ".ip6.arpa"
_BYTES = {dns.A: 4, dns.AAAA: 16}


@dataclass
class _Known:
    """Of one guest: its addresses, what it is called, what it alone sees."""

    addresses: Sequence[bytes] = ()
    names: Sequence[str] = ()
    private: Mapping[str, Sequence[bytes]] = field(default_factory=dict)


class Names:
    """A name may be several guests', a guest may have several names; its first is what its address is called. Every
    name is known with `domain`, the network's own name, after it too."""

    def __init__(self, domain: str = "") -> None:
        self._domain = domain.lower()
        self._known: dict[str, _Known] = {}
        self._index: dict[str, list[bytes]] | None = None  # made when it is asked for
        self._called: dict[bytes, str] = {}
        self._turn = 0

    def put(
        self, guest: str, addresses: Sequence[bytes], names: Iterable[str], private: Mapping[str, Sequence[str]]
    ) -> None:
        """Names that cannot be one in DNS are left out. Raises ValueError for an address that is none."""
        packed = {
            name.lower(): [ipaddress.ip_address(text).packed for text in texts] for name, texts in private.items()
        }
        self._known[guest] = _Known(list(addresses), [name for name in names if _is_name(name)], packed)
        self._index = None

    def remove(self, guest: str) -> None:
        if self._known.pop(guest, None) is not None:
            self._index = None

    def answer(self, query: bytes, guest: str) -> bytes | None:
        """What to send back to this guest, or None for a name that is not ours. A name of ours has no records but A
        and AAAA. Addresses take turns at being the first."""
        asked = dns.question(query) if self._known else None
        if asked is None:
            return None
        if asked.kind == dns.PTR:
            called = self._called_for(_reversed(asked.name), guest)
            return dns.emit_answers(query, asked, [dns.emit_name(called)], TTL_SECONDS) if called else None
        addresses = self._private(guest).get(asked.name) or self._public().get(asked.name)
        if addresses is None:
            return None
        wanted = [address for address in addresses if len(address) == _BYTES.get(asked.kind)]
        if len(wanted) > 1:
            self._turn += 1
            first = self._turn % len(wanted)
            wanted = wanted[first:] + wanted[:first]
        return dns.emit_answers(query, asked, wanted, TTL_SECONDS)

    def _private(self, guest: str) -> Mapping[str, Sequence[bytes]]:
        known = self._known.get(guest)
        return known.private if known is not None else {}

    def _public(self) -> dict[str, list[bytes]]:
        if self._index is None:
            index: dict[str, list[bytes]] = {}
            self._called = {}
            for known in self._known.values():
                for name in dict.fromkeys(name.lower() for name in known.names):
                    index.setdefault(name, []).extend(known.addresses)
                    if self._domain:
                        index.setdefault(f"{name}.{self._domain}", []).extend(known.addresses)
                if known.names:
                    called = f"{known.names[0]}.{self._domain}" if self._domain else known.names[0]
                    self._called.update(dict.fromkeys(known.addresses, called))
            self._index = index
        return self._index

    def _called_for(self, address: bytes, guest: str) -> str:
        self._public()
        if (called := self._called.get(address)) is not None:
            return called
        return next((name for name, addresses in self._private(guest).items() if address in addresses), "")


def _is_name(name: str) -> bool:
    try:
        dns.emit_name(name)
    except ValueError:
        return False
    return True


def _reversed(name: str) -> bytes:
    """The address a name like 2.0.17.172.in-addr.arpa is about; b"" for none."""
    try:
        if name.endswith(_REVERSE4):
            return ipaddress.IPv4Address(".".join(reversed(name.removesuffix(_REVERSE4).split(".")))).packed
        if name.endswith(_REVERSE6):
            return bytes.fromhex("".join(reversed(name.removesuffix(_REVERSE6).split(".")))).rjust(16, b"\0")[:16]
    except ValueError:
        return b""
    return b""
