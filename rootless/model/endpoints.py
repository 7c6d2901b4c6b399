"""What a container is to be on the networks it joins: the request checked (NetworkMode, EndpointsConfig). Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any

from rootless.model.errors import InvalidParameter
from rootless.model.networks import BRIDGE, FAST_OPTION, HOST, NONE, Network, check_truth

CONTAINER = "container:"
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_ALIAS = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,252}")
Endpoints = dict[str, dict[str, Any]]


def mode_of(host_config: Mapping[str, Any]) -> str:
    """HostConfig.NetworkMode with docker's default in place."""
    mode = str(host_config.get("NetworkMode") or "default")
    return BRIDGE if mode == "default" else mode


def endpoints_of(body: Mapping[str, Any], find: Callable[[str], Network]) -> Endpoints:
    """Network name -> the settings asked for, of POST /containers/create. The network of NetworkMode is among them,
    unless that is `container:…`. Raises InvalidParameter, NotFound."""
    host_config = body.get("HostConfig") or {}
    asked = (body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
    mode = mode_of(host_config)
    if mode.startswith(CONTAINER):
        if asked:
            raise InvalidParameter("conflicting options: cannot attach both user-defined and non-user-defined networks")
        _check_container_mode(body, host_config)
        return {}
    first = find(mode)
    if first.name == HOST and host_config.get("Links"):
        raise InvalidParameter("conflicting options: host type networking can't be used with links")
    found: Endpoints = {first.name: {}}
    for name, settings in asked.items():
        network = first if name in ("default", mode) else find(name)
        found[network.name] = settings_of(settings or {}, network)
    if len(found) > 1 and {HOST, NONE} & set(found):
        raise InvalidParameter("conflicting options: cannot attach both user-defined and non-user-defined networks")
    if not found[first.name]:
        found[first.name] = settings_of({}, first)
    mac = str(body.get("MacAddress") or "")
    if mac and not found[first.name]["MacAddress"]:  # where the API had it before 1.44
        found[first.name]["MacAddress"] = _mac(mac)
    return found


def settings_of(asked: Mapping[str, Any], network: Network) -> dict[str, Any]:
    """An EndpointSettings, checked, with nothing but what was asked for. Raises InvalidParameter."""
    addresses = asked.get("IPAMConfig") or {}
    _check_link_local(_words(addresses, "LinkLocalIPs"))
    addresses = {name: str(value) for name, value in addresses.items() if value and name != "LinkLocalIPs"}
    for name, version in (("IPv4Address", 4), ("IPv6Address", 6)):
        if addresses.get(name):
            _check_address(addresses[name], version, network)
    aliases, links = _words(asked, "Aliases"), _words(asked, "Links")
    if aliases and not network.has_names:
        raise InvalidParameter(
            "invalid endpoint settings:\nnetwork-scoped aliases are only supported for user-defined networks"
        )
    for alias in aliases:
        if not _ALIAS.fullmatch(alias):
            raise InvalidParameter(f"invalid network alias: {alias!r}")
    links_of(links)
    options = asked.get("DriverOpts") or {}
    check_truth(FAST_OPTION, options.get(FAST_OPTION))
    priority = asked.get("GwPriority") or 0
    return {
        "IPAMConfig": addresses or None,
        "Links": links or None,
        "Aliases": aliases or None,
        "MacAddress": _mac(str(asked["MacAddress"])) if asked.get("MacAddress") else "",
        "DriverOpts": options or None,
        "GwPriority": priority,
    }


def links_of(texts: list[str]) -> list[tuple[str, str]]:
    """["db:database", "cache"] -> [("db", "database"), ("cache", "cache")]. Raises InvalidParameter."""
    found = []
    for text in texts:
        name, _, alias = text.removeprefix("/").partition(":")
        alias = alias.rpartition("/")[2] or name  # inspect shows them as /name:/container/alias
        if not name or not _ALIAS.fullmatch(alias):
            raise InvalidParameter(f"bad format for links: {text}")
        found.append((name, alias))
    return found


def _check_container_mode(body: Mapping[str, Any], host_config: Mapping[str, Any]) -> None:
    conflicts = {
        "port publishing": host_config.get("PortBindings") or host_config.get("PublishAllPorts"),
        "port exposing": body.get("ExposedPorts"),
        "links": host_config.get("Links"),
        "dns options": host_config.get("Dns") or host_config.get("DnsSearch") or host_config.get("DnsOptions"),
        "custom host-to-IP mapping": host_config.get("ExtraHosts"),
        "mac-address": body.get("MacAddress"),
        "hostname": body.get("Hostname"),
    }
    for what, given in conflicts.items():
        if given:
            raise InvalidParameter(f"conflicting options: {what} and the container type network mode")


def _check_address(text: str, version: int, network: Network) -> None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidParameter(f"invalid endpoint settings:\ninvalid IPv{version} address: {text}") from None
    if network.name == BRIDGE:
        raise InvalidParameter(
            "invalid endpoint settings:\nuser specified IP address is supported on user defined networks only"
        )
    pool = network.pool4 if version == 4 else network.pool6
    if address.version != version:
        raise InvalidParameter(f"invalid endpoint settings:\ninvalid IPv{version} address: {text}")
    if pool is None:
        raise InvalidParameter(f"invalid endpoint settings:\nnetwork {network.name} has no IPv{version} subnet")
    if not network.configured:
        raise InvalidParameter(
            "invalid endpoint settings:\nuser specified IP address is supported only when connecting to networks with "
            "user configured subnets"
        )
    if address not in ipaddress.ip_network(pool.subnet):
        raise InvalidParameter(
            f"invalid endpoint settings:\nno configured subnet or ip-range contain the IP address {text}"
        )


def _check_link_local(addresses: list[str]) -> None:
    """The network takes no packets from addresses it has not given."""
    for text in addresses:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            raise InvalidParameter(f"invalid endpoint settings:\ninvalid link-local IP address: {text}") from None
        raise InvalidParameter(f"invalid endpoint settings:\nlink-local IP addresses are not supported: {text}")


def _mac(text: str) -> str:
    mac = text.lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        raise InvalidParameter(f"invalid MAC address: address {text}: invalid MAC address")
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise InvalidParameter(f"invalid MAC address: {text} is no address of a single device")
    return mac


def _words(value: Mapping[str, Any], name: str) -> list[str]:
    return list(dict.fromkeys(value.get(name) or []))
