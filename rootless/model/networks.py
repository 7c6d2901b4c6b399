"""A network as the user made it: the request checked, its form on disk, its form in the API. Pure."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rootless.model.addresses import Pool, overlap, pool_of
from rootless.model.errors import Conflict, Forbidden, InvalidParameter, NotFound

BRIDGE, HOST, NONE = "bridge", "host", "none"
PREDEFINED = (BRIDGE, HOST, NONE)
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
MTU_OPTION = "com.docker.network.driver.mtu"
ICC_OPTION = "com.docker.network.bridge.enable_icc"
FAST_OPTION = "fast"  # ours: also of an endpoint
BINDING_OPTION = "com.docker.network.bridge.host_binding_ipv4"
# docker's default-address-pools: sixteen of the first, then sixteen of the second
_FREE_SUBNETS = (
    *(f"172.{number}.0.0/16" for number in range(17, 32)),
    *(f"192.168.{number}.0/20" for number in range(0, 256, 16)),
)


@dataclass(frozen=True)
class Network:
    """`pool4` is None without IPv4, `pool6` without IPv6, both for `host` and `none`. `configured`: the user
    has chosen the subnets, so containers may choose their addresses."""

    id: str
    name: str
    created: str
    driver: str = "bridge"
    pool4: Pool | None = None
    pool6: Pool | None = None
    configured: bool = False
    internal: bool = False
    attachable: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    ipam_options: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_names(self) -> bool:
        """Whether containers find each other by name: on every network but docker's default one."""
        return self.name not in PREDEFINED

    @property
    def mtu(self) -> int:
        """0 where it was not chosen."""
        return int(self.options.get(MTU_OPTION, 0))

    @property
    def has_devices(self) -> bool:
        """Whether containers get a device on it, whose packets a process of its own takes."""
        return bool(self.pools)

    @property
    def gateway(self) -> str:
        """Its router and name server; "" without devices."""
        return self.pools[0].gateway if self.pools else ""

    @property
    def pools(self) -> tuple[Pool, ...]:
        return tuple(pool for pool in (self.pool4, self.pool6) if pool is not None)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Network:
        """Raises KeyError, TypeError, ValueError."""
        pools = {name: Pool(**value[name]) if value.get(name) else None for name in ("pool4", "pool6")}
        return cls(**{**value, **pools})

    def shape(self, containers: Mapping[str, Any]) -> dict[str, Any]:
        """GET /networks/{id}; `containers` are the rows of its members."""
        return {
            "Name": self.name,
            "Id": self.id,
            "Created": self.created,
            "Scope": "local",
            "Driver": self.driver,
            "EnableIPv4": self.pool4 is not None or self.pool6 is None,
            "EnableIPv6": self.pool6 is not None,
            "IPAM": {
                "Driver": "default",
                "Options": dict(self.ipam_options) or (None if self.name in PREDEFINED else {}),
                "Config": [pool.config for pool in self.pools],
            },
            "Internal": self.internal,
            "Attachable": self.attachable,
            "Ingress": False,
            "ConfigFrom": {"Network": ""},
            "ConfigOnly": False,
            "Containers": dict(containers),
            "Options": dict(self.options),
            "Labels": dict(self.labels),
        }


def network_of(
    body: Mapping[str, Any],
    networks: Collection[Network],
    occupied: Iterable[str],
    *,
    network_id: str,
    created: str,
    private6: str,
) -> Network:
    """POST /networks/create. `occupied` are subnets of the host's own, not to be chosen; `private6` is the /64 to take
    where IPv6 is asked for without a subnet. Raises InvalidParameter, Conflict, Forbidden, NotFound."""
    name = str(body.get("Name") or "")
    _check_name(name, networks)
    driver = str(body.get("Driver") or "bridge")
    _check_kind(body, driver)
    ipam = body.get("IPAM") or {}
    if str(ipam.get("Driver") or "default") != "default":
        raise NotFound(f"could not find IPAM driver {ipam['Driver']}: there is only the default one")
    rows = ipam.get("Config") or []
    options = body.get("Options") or {}
    _check_options(options)
    pools = [pool_of(row) for row in rows if row]
    by_version: dict[int, list[Pool]] = {4: [], 6: []}
    for pool in pools:
        by_version[ipaddress.ip_network(pool.subnet).version].append(pool)
    if any(len(found) > 1 for found in by_version.values()):
        raise InvalidParameter("a bridge network has one IPv4 subnet and one IPv6 subnet at most")
    taken = [pool.subnet for network in networks for pool in network.pools]
    for pool in pools:
        if any(overlap(pool.subnet, other) for other in taken):
            raise Forbidden(f"invalid pool request: Pool overlaps with other one on this address space: {pool.subnet}")
    wants6 = bool(body.get("EnableIPv6"))
    if by_version[6] and not wants6:
        raise InvalidParameter(f"IPv6 subnet {by_version[6][0].subnet} given, but IPv6 is not enabled: use --ipv6")
    wants4 = body.get("EnableIPv4") is not False
    if by_version[4] and not wants4:
        raise InvalidParameter(f"IPv4 subnet {by_version[4][0].subnet} given, but IPv4 is not enabled")
    if not wants4 and not wants6:
        raise InvalidParameter("IPv4 or IPv6 must be enabled")
    pool4 = by_version[4][0] if by_version[4] else _free_pool([*taken, *occupied]) if wants4 else None
    pool6 = by_version[6][0] if by_version[6] else pool_of({"Subnet": private6}) if wants6 else None
    return Network(
        network_id,
        name,
        created,
        "bridge",
        pool4,
        pool6,
        bool(pools),
        bool(body.get("Internal")),
        bool(body.get("Attachable")),
        options,
        body.get("Labels") or {},
        ipam.get("Options") or {},
    )


def _check_name(name: str, networks: Collection[Network]) -> None:
    if name in PREDEFINED or name == "default":
        raise Forbidden(f"operation is not permitted on predefined {name} network")
    if not NAME.fullmatch(name):
        raise InvalidParameter(f"invalid network name: {name!r}, only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    if any(network.name == name for network in networks):
        raise Conflict(f"network with name {name} already exists")


def _check_kind(body: Mapping[str, Any], driver: str) -> None:
    if driver in (HOST, "null"):
        raise Forbidden(f'only one instance of "{driver}" network is allowed')
    if driver != "bridge":
        raise NotFound(
            f"could not find plugin {driver} in v1 plugin registry: plugin not found; without root the networks are of "
            "the driver bridge"
        )
    if str(body.get("Scope") or "local") != "local":
        raise InvalidParameter(f"scope {body['Scope']!r} is not possible: networks are local to this machine")
    for name in ("Ingress", "ConfigOnly"):
        if body.get(name):
            raise InvalidParameter(f"{name} networks belong to a swarm, and are not supported")


def _check_options(options: Mapping[str, str]) -> None:
    if (text := options.get(MTU_OPTION)) is not None and not (text.isdecimal() and 576 <= int(text) <= 65520):
        raise InvalidParameter(f"invalid value for {MTU_OPTION}: {text!r} is not a number from 576 to 65520")
    if (text := options.get(BINDING_OPTION)) is not None:
        try:
            ipaddress.IPv4Address(text)
        except ValueError:
            raise InvalidParameter(f"invalid value for {BINDING_OPTION}: {text!r} is no IPv4 address") from None
    for name in (ICC_OPTION, FAST_OPTION):
        check_truth(name, options.get(name))


def check_truth(name: str, text: object) -> None:
    """None is allowed. Raises InvalidParameter."""
    if text is not None and str(text).lower() not in ("true", "false", "1", "0"):
        raise InvalidParameter(f"invalid value for {name}: {text!r} is neither true nor false")


def is_true(text: object) -> bool:
    return str(text).lower() in ("true", "1")


def is_fast(network: Network, settings: Mapping[str, Any]) -> bool:
    """Whether a container with these settings of its endpoint has fast sockets there: its word counts more."""
    return is_true((settings.get("DriverOpts") or {}).get(FAST_OPTION, network.options.get(FAST_OPTION)))


def _free_pool(taken: list[str]) -> Pool:
    for subnet in _FREE_SUBNETS:
        if not any(overlap(subnet, other) for other in taken):
            return pool_of({"Subnet": subnet})
    raise InvalidParameter(
        "all predefined address pools have been fully subnetted: remove a network, or give a --subnet"
    )
