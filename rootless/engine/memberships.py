"""Who is on which network at this moment: addresses, interfaces, names, which of its networks is a container's way out.

Knows nothing of processes and does no I/O; `networks` acts on what is decided here."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rootless.model.addresses import Addresses
from rootless.model.endpoints import links_of
from rootless.model.networks import Network, is_fast
from rootless.runtime.spec import GuestNetwork

SHORT_ID = 12


@dataclass
class Member:
    """One container on one network. `shown` is the API's EndpointSettings."""

    network: Network
    interface: str
    shown: dict[str, Any]

    @property
    def endpoint_id(self) -> str:
        return str(self.shown["EndpointID"])

    @property
    def addresses(self) -> list[str]:
        return [text for text in (self.shown["IPAddress"], self.shown["GlobalIPv6Address"]) if text]

    @property
    def names(self) -> list[str]:
        return list(self.shown["DNSNames"] or ())


@dataclass
class Joined:
    """All networks of one running container. `primary` is the name of the one with the default route, where its names
    are looked up and its ports are published; `told` the names that only it sees, as its network knows them."""

    container_id: str
    members: dict[str, Member] = field(default_factory=dict)
    primary: str = ""
    links: list[str] = field(default_factory=list)  # HostConfig.Links
    resolvers: tuple[str, ...] = ()
    told: dict[str, list[str]] = field(default_factory=dict)

    @property
    def way_out(self) -> Member | None:
        return self.members.get(self.primary)


class Memberships:
    """`find(text)` gives the id of a container by name or id, "" for none."""

    def __init__(self, default_mtu: int, find: Callable[[str], str]) -> None:
        self._default_mtu = default_mtu
        self._find = find
        self._addresses: dict[str, Addresses] = {}  # by subnet
        self.by_container: dict[str, Joined] = {}

    # ------------------------------------------------------------------------------------------------ joining
    def join(self, joined: Joined, network: Network, settings: Mapping[str, Any], name: str, hostname: str) -> Member:
        """Give a container its addresses on a network. Raises InvalidParameter, Forbidden, Conflict, and nothing has
        changed then."""
        wanted = settings.get("IPAMConfig") or {}
        owner = f"{joined.container_id}/{network.name}"
        pool4, pool6 = network.pool4, network.pool6
        address4 = address6 = ""
        try:
            if pool4 is not None:
                address4 = self._pool(network, 4).take(owner, wanted.get("IPv4Address", ""))
            if pool6 is not None:
                address6 = self._pool(network, 6).take(owner, wanted.get("IPv6Address", ""))
        except BaseException:
            self._release(owner, network)
            raise
        taken = {member.interface for member in joined.members.values()}
        interface = next(f"eth{n}" for n in range(len(taken) + 1) if f"eth{n}" not in taken)
        names = [name, *(settings.get("Aliases") or ()), joined.container_id[:SHORT_ID], hostname]
        shown = {
            **unjoined(network, settings),
            "EndpointID": secrets.token_hex(32),
            "Gateway": pool4.gateway if pool4 and not network.internal else "",
            "IPAddress": address4,
            "IPPrefixLen": pool4.prefix_length if pool4 else 0,
            "IPv6Gateway": pool6.gateway if pool6 and not network.internal else "",
            "GlobalIPv6Address": address6,
            "GlobalIPv6PrefixLen": pool6.prefix_length if pool6 else 0,
            "MacAddress": settings.get("MacAddress") or mac_of(address4, address6),
            "DNSNames": list(dict.fromkeys(n for n in names if n)) if network.has_names else None,
        }
        member = joined.members[network.name] = Member(network, interface, shown)
        self.by_container[joined.container_id] = joined
        return member

    def leave(self, joined: Joined, network: Network) -> None:
        joined.members.pop(network.name, None)
        self._release(f"{joined.container_id}/{network.name}", network)

    def release(self, container_id: str) -> None:
        """A container has ended."""
        joined = self.by_container.pop(container_id, None)
        for member in list(joined.members.values()) if joined else ():
            self._release(f"{container_id}/{member.network.name}", member.network)

    def adopt(self, joined: Joined) -> None:
        """A container that ran before this engine did."""
        self.by_container[joined.container_id] = joined
        for name, member in joined.members.items():
            owner = f"{joined.container_id}/{name}"
            for version, key in ((4, "IPAddress"), (6, "GlobalIPv6Address")):
                if member.shown.get(key) and (member.network.pool4 if version == 4 else member.network.pool6):
                    self._pool(member.network, version).hold(member.shown[key], owner)

    def forget(self, network: Network) -> None:
        """A network has been removed."""
        for pool in network.pools:
            self._addresses.pop(pool.subnet, None)

    def _pool(self, network: Network, version: int) -> Addresses:
        pool = network.pool4 if version == 4 else network.pool6
        assert pool is not None
        if pool.subnet not in self._addresses:
            self._addresses[pool.subnet] = Addresses(pool)
        return self._addresses[pool.subnet]

    def _release(self, owner: str, network: Network) -> None:
        for pool in network.pools:
            if pool.subnet in self._addresses:
                self._addresses[pool.subnet].release(owner)

    # ------------------------------------------------------------------------------------------------ asking
    def of_network(self, name: str) -> list[tuple[str, Member]]:
        """(container id, member) of everybody on a network."""
        return [(j.container_id, j.members[name]) for j in self.by_container.values() if name in j.members]

    def guest(self, joined: Joined, member: Member) -> GuestNetwork:
        """What the launcher is asked to make."""
        network, shown = member.network, member.shown
        primary = joined.primary == network.name
        address6 = f"{shown['GlobalIPv6Address']}/{shown['GlobalIPv6PrefixLen']}" if shown["GlobalIPv6Address"] else ""
        if primary:
            joined.told = self.private_names(joined)
        return GuestNetwork(
            network_id=network.id,
            endpoint_id=member.endpoint_id,
            interface=member.interface,
            mac=shown["MacAddress"],
            mtu=network.mtu or self._default_mtu,
            address4=f"{shown['IPAddress']}/{shown['IPPrefixLen']}" if shown["IPAddress"] else "",
            gateway4=shown["Gateway"] if primary else "",
            address6=address6,
            gateway6=shown["IPv6Gateway"] if primary else "",
            names=tuple(member.names),
            private_names={name: tuple(addresses) for name, addresses in joined.told.items()} if primary else {},
            resolvers=joined.resolvers if primary and network.has_names else (),
            fast=primary and is_fast(network, shown),
        )

    def private_names(self, joined: Joined) -> dict[str, list[str]]:
        """Names that only this container sees: its links, and who is on its networks other than the primary one, whose
        resolver it asks."""
        found: dict[str, list[str]] = {}
        for member in joined.members.values():
            if not member.network.has_names or member.network.name == joined.primary:
                continue
            for _, other in self.of_network(member.network.name):
                for name in other.names:
                    found.setdefault(name, []).extend(other.addresses)
                    found.setdefault(f"{name}.{member.network.name}", []).extend(other.addresses)
        for member in joined.members.values():
            links = [*(member.shown["Links"] or ()), *(joined.links if not member.network.has_names else ())]
            for target, alias in links_of(links):
                other_joined = self.by_container.get(self._find(target))
                linked = other_joined.members.get(member.network.name) if other_joined else None
                if linked is not None:
                    for name in (alias, target):
                        found[name] = linked.addresses
        return found


def choose_primary(members: Iterable[Member], first: str = "") -> str:
    """The name of the network that is the way out: with a way out before without, then by priority, then `first` (the
    one in use, or the container's NetworkMode), then by name. "" for none."""

    def rank(member: Member) -> tuple[bool, int, bool, str]:
        network = member.network
        return network.internal, -int(member.shown.get("GwPriority") or 0), network.name != first, network.name

    ordered = sorted(members, key=rank)
    return ordered[0].network.name if ordered else ""


def unjoined(network: Network, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The EndpointSettings of a container that does not run: what was asked for, no addresses."""
    return {
        "IPAMConfig": settings.get("IPAMConfig"),
        "Links": settings.get("Links"),
        "Aliases": settings.get("Aliases"),
        "MacAddress": settings.get("MacAddress") or "",
        "DriverOpts": settings.get("DriverOpts"),
        "GwPriority": settings.get("GwPriority") or 0,
        "NetworkID": network.id,
        "EndpointID": "",
        "Gateway": "",
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": None,
    }


def shown_of(network: Network, settings: Mapping[str, Any], guest: Mapping[str, Any]) -> dict[str, Any]:
    """The EndpointSettings of a device that is there (a GuestNetwork as a dict)."""
    address4, _, prefix4 = guest["address4"].partition("/")
    address6, _, prefix6 = guest["address6"].partition("/")
    return {
        **unjoined(network, settings),
        "EndpointID": guest["endpoint_id"],
        "Gateway": network.pool4.gateway if network.pool4 and not network.internal else "",
        "IPAddress": address4,
        "IPPrefixLen": int(prefix4 or 0),
        "IPv6Gateway": network.pool6.gateway if network.pool6 and not network.internal else "",
        "GlobalIPv6Address": address6,
        "GlobalIPv6PrefixLen": int(prefix6 or 0),
        "MacAddress": guest["mac"],
        "DNSNames": list(guest["names"]) or None,
    }


def mac_of(address4: str, address6: str) -> str:
    """docker's: 02:42 and the address. Without IPv4 one by chance; without any address none."""
    if not address4 and not address6:
        return ""
    packed = ipaddress.IPv4Address(address4).packed if address4 else secrets.token_bytes(4)
    return "02:42:" + packed.hex(":")


def row_of(name: str, member: Member) -> dict[str, Any]:
    """A row of Containers in GET /networks/{id}."""
    shown = member.shown

    def with_prefix(address: str, prefix: int) -> str:
        return f"{address}/{prefix}" if address else ""

    return {
        "Name": name,
        "EndpointID": shown["EndpointID"],
        "MacAddress": shown["MacAddress"],
        "IPv4Address": with_prefix(shown["IPAddress"], shown["IPPrefixLen"]),
        "IPv6Address": with_prefix(shown["GlobalIPv6Address"], shown["GlobalIPv6PrefixLen"]),
    }
