"""What a network is, as a value that travels as JSON."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class NetworkConfig:
    """`subnet4` "172.17.0.0/16", `gateway4` "172.17.0.1" (router and NAT are there); `subnet6` "fd00:17::/64" and
    `gateway6` likewise; "" for a network without IPv4, or without IPv6. `autoconf6`: guests make their IPv6
    addresses themselves. `resolvers` replaces the host's /etc/resolv.conf when given. `host_loopback`: guests may
    reach the host's loopback at the gateway's address. `dns`: whether queries are answered, at `dns4`, or the
    gateway's address where that is "". Names of endpoints are answered on every network but "bridge". `internal`:
    nothing leads outside, questions about other names neither. `guests_meet`: frames pass between guests.
    `forbidden`: subnets that nothing leads to, other networks' for one: they are on no route of the host, and
    packets for them would leave the machine. `dns6` is for `gateway6` what `dns4` is. `outbound4` and `outbound6`:
    where the host's sockets are bound to."""

    name: str
    subnet4: str
    gateway4: str
    mtu: int = 1500
    host_loopback: bool = False
    resolvers: tuple[str, ...] = ()
    dns: bool = True
    dns4: str = ""
    subnet6: str = ""
    gateway6: str = ""
    autoconf6: bool = False
    internal: bool = False
    guests_meet: bool = True
    forbidden: tuple[str, ...] = ()
    dns6: str = ""
    outbound4: str = ""
    outbound6: str = ""

    @property
    def has_names(self) -> bool:
        return self.name != "bridge"

    def as_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, object]) -> NetworkConfig:
        """Raises ValueError naming what is wrong."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := set(value) - known:
            raise ValueError(f"unknown network setting {sorted(unknown)[0]!r}")
        subnet4, gateway4 = str(value.get("subnet4", "")), str(value.get("gateway4", ""))
        if bool(subnet4) != bool(gateway4):
            raise ValueError("subnet4 and gateway4 belong together")
        if subnet4 and ipaddress.IPv4Address(gateway4) not in ipaddress.IPv4Network(subnet4):
            raise ValueError(f"gateway {gateway4} is not in {subnet4}")
        mtu = value.get("mtu", 1500)
        resolvers = value.get("resolvers", ())
        if not isinstance(mtu, int) or not 576 <= mtu <= 65520:
            raise ValueError(f"mtu {mtu!r} is not from 576 to 65520")
        forbidden = value.get("forbidden", ())
        if not isinstance(forbidden, (list, tuple)):
            raise ValueError("forbidden is not a list")
        if not isinstance(resolvers, (list, tuple)):
            raise ValueError("resolvers is not a list")
        dns4 = str(value.get("dns4", ""))
        if dns4 and (not subnet4 or ipaddress.IPv4Address(dns4) not in ipaddress.IPv4Network(subnet4)):
            raise ValueError(f"resolver {dns4} is not in {subnet4 or 'any subnet4'}")
        subnet6, gateway6 = str(value.get("subnet6", "")), str(value.get("gateway6", ""))
        if bool(subnet6) != bool(gateway6):
            raise ValueError("subnet6 and gateway6 belong together")
        if not subnet4 and not subnet6:
            raise ValueError("a network needs subnet4 or subnet6")
        if subnet6 and ipaddress.IPv6Address(gateway6) not in ipaddress.IPv6Network(subnet6):
            raise ValueError(f"gateway {gateway6} is not in {subnet6}")
        if subnet6 and mtu < 1280:
            raise ValueError(f"IPv6 needs an mtu of 1280 at least, not {mtu}")  # RFC 8200 5
        autoconf6 = bool(value.get("autoconf6", False))
        if autoconf6 and (not subnet6 or ipaddress.IPv6Network(subnet6).prefixlen != 64):
            raise ValueError("autoconf6 needs a subnet6 with a prefix of 64 bits")  # RFC 4862 5.5.3
        dns6 = str(value.get("dns6", ""))
        if dns6 and (not subnet6 or ipaddress.IPv6Address(dns6) not in ipaddress.IPv6Network(subnet6)):
            raise ValueError(f"resolver {dns6} is not in {subnet6 or 'any subnet6'}")
        outbound4, outbound6 = str(value.get("outbound4", "")), str(value.get("outbound6", ""))
        return cls(
            str(value["name"]),
            str(ipaddress.IPv4Network(subnet4)) if subnet4 else "",
            str(ipaddress.IPv4Address(gateway4)) if gateway4 else "",
            mtu,
            bool(value.get("host_loopback", False)),
            tuple(str(ipaddress.ip_address(str(resolver))) for resolver in resolvers),
            bool(value.get("dns", True)),
            dns4,
            subnet6,
            gateway6,
            autoconf6,
            bool(value.get("internal", False)),
            bool(value.get("guests_meet", True)),
            tuple(str(ipaddress.ip_network(str(subnet))) for subnet in forbidden),
            dns6,
            str(ipaddress.IPv4Address(outbound4)) if outbound4 else "",
            str(ipaddress.IPv6Address(outbound6)) if outbound6 else "",
        )
