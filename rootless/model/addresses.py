"""Addresses of one subnet: which are whose, which is next. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rootless.model.errors import Conflict, Forbidden, InvalidParameter

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Pool:
    """A subnet of a network: "172.18.0.0/16", its gateway, the part of it ("" for all) that addresses are given from,
    and addresses that are never given (name -> address)."""

    subnet: str
    gateway: str
    range: str = ""
    auxiliary: Mapping[str, str] = field(default_factory=dict)

    @property
    def prefix_length(self) -> int:
        return ipaddress.ip_network(self.subnet).prefixlen

    @property
    def config(self) -> dict[str, object]:
        """A row of the API's IPAM.Config."""
        row: dict[str, object] = {"Subnet": self.subnet, "Gateway": self.gateway}
        if self.range:
            row["IPRange"] = self.range
        if self.auxiliary:
            row["AuxiliaryAddresses"] = dict(self.auxiliary)
        return row


def pool_of(row: Mapping[str, Any]) -> Pool:
    """A row of IPAM.Config, checked; the gateway is the subnet's first address where none is given. Raises
    InvalidParameter in docker's words."""
    text = str(row.get("Subnet") or "")
    subnet = _network(text, "subnet")
    part = _network(str(row["IPRange"]), "ip-range") if row.get("IPRange") else None
    if part is not None and not _within(part, subnet):
        raise InvalidParameter(f"invalid network config:\ninvalid ip-range {part}: it should be within {subnet}")
    if subnet.is_loopback or subnet.is_multicast or subnet.network_address.is_unspecified:
        raise InvalidParameter(f"invalid network config:\ninvalid subnet {subnet}: no device can have such an address")
    if subnet.num_addresses < 4:
        raise InvalidParameter(f"invalid network config:\ninvalid subnet {subnet}: it is too small for a container")
    gateway = _member(str(row.get("Gateway") or subnet[1]), subnet, "gateway")
    if gateway in _nobodys(subnet):
        raise Forbidden(f"failed to allocate gateway ({gateway}): Address already in use")
    others = row.get("AuxiliaryAddresses") or row.get("AuxAddress") or {}
    auxiliary = {str(name): str(_member(str(value), subnet, "auxiliary address")) for name, value in others.items()}
    if str(gateway) in auxiliary.values():
        raise Forbidden(f"gateway {gateway} and an auxiliary address are the same")
    return Pool(str(subnet), str(gateway), str(part) if part is not None else "", auxiliary)


def overlap(one: str, other: str) -> bool:
    """Whether two subnets have an address in common; those of different families have none."""
    first, second = ipaddress.ip_network(one), ipaddress.ip_network(other)
    if first.version != second.version:
        return False
    return first.overlaps(second)


class Addresses:
    """Of one pool. An owner may have one address; it is free again after `release`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._subnet: Subnet = ipaddress.ip_network(pool.subnet)
        self._range: Subnet = ipaddress.ip_network(pool.range or pool.subnet)
        self._never = {pool.gateway, *pool.auxiliary.values(), *map(str, _nobodys(self._subnet))}
        self._owners: dict[str, str] = {}
        self._last = 0

    def take(self, owner: str, wanted: str = "") -> str:
        """Raises InvalidParameter (not one of the subnet), Forbidden (in use), Conflict (none is left)."""
        if wanted:
            address = str(_member(wanted, self._subnet, "address"))
            if address in self._never or self._owners.get(address, owner) != owner:
                raise Forbidden(f"Address already in use: {address}")
            self._owners[address] = owner
            return address
        size = self._range.num_addresses
        for step in range(1, min(size, len(self._owners) + len(self._never) + 1) + 1):
            offset = (self._last + step) % size
            address = str(self._range[offset])
            if address not in self._owners and address not in self._never:
                self._owners[address] = owner
                self._last = offset
                return address
        raise Conflict(f"no available IPv{self._subnet.version} addresses on this network's pool {self._range}")

    def hold(self, address: str, owner: str) -> None:
        """Take back what was in use when the engine died."""
        self._owners[address] = owner

    def release(self, owner: str) -> None:
        self._owners = {address: holder for address, holder in self._owners.items() if holder != owner}


def _nobodys(subnet: Subnet) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The network's own address (with IPv6 any router's), and IPv4's broadcast."""
    return [subnet[0], subnet[-1]] if subnet.version == 4 else [subnet[0]]


def _network(text: str, what: str) -> Subnet:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InvalidParameter(f"invalid network config:\ninvalid {what} {text}: invalid CIDR block notation") from None
    if str(network) != text and network != ipaddress.ip_interface(text):
        given = ipaddress.ip_interface(text)
        if given.ip != network.network_address:
            raise InvalidParameter(f"invalid network config:\ninvalid {what} {text}: it should be {network}")
    return network


def _within(part: Subnet, subnet: Subnet) -> bool:
    return part.version == subnet.version and part.subnet_of(subnet)  # type: ignore[arg-type]


def _member(text: str, subnet: Subnet, what: str) -> Address:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidParameter(f"invalid {what} {text}: it is no IP address") from None
    if address not in subnet:
        raise InvalidParameter(f"invalid {what} {text}: it is not in the subnet {subnet}")
    return address
