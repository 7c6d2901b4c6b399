"""`--network` and the flags about addresses -> NetworkMode and EndpointsConfig. Pure."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import Any

from rootless.model.errors import InvalidParameter

_BUILT_IN = ("default", "bridge", "host", "none")


def endpoints(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(HostConfig.NetworkMode, NetworkingConfig.EndpointsConfig). Raises InvalidParameter.

    A network is a name, or `name=…,alias=…,ip=…`; `NAME:fast` has fast sockets. Addresses and aliases given by flags
    belong to the first one."""
    networks = [_network(text) for text in options["network"]] or [("default", {})]
    first_name, first = networks[0]
    addresses = {
        "IPv4Address": options["ip"],
        "IPv6Address": options["ip6"],
        "LinkLocalIPs": list(options["link_local_ip"]),
    }
    if given := {name: value for name, value in addresses.items() if value}:
        first["IPAMConfig"] = {**first.get("IPAMConfig", {}), **given}
    if options["network_alias"]:
        first["Aliases"] = [*first.get("Aliases", []), *options["network_alias"]]
    if options["mac_address"]:
        first["MacAddress"] = options["mac_address"]
    if options["link"] and first_name not in _BUILT_IN:
        first["Links"] = list(options["link"])
    found: dict[str, Any] = {}
    for name, endpoint in networks:
        if name in found:
            raise InvalidParameter(f'network "{name}" is specified multiple times')
        if len(networks) > 1 and (name in ("host", "none") or name.startswith("container:")):
            raise InvalidParameter("conflicting options: cannot attach both user-defined and non-user-defined networks")
        found[name] = endpoint
    if found == {first_name: {}} and (first_name in _BUILT_IN or first_name.startswith("container:")):
        return first_name, {}
    return first_name, found


def _network(text: str) -> tuple[str, dict[str, Any]]:
    if "=" not in text:
        name, colon, word = text.rpartition(":")
        if colon and word == "fast" and not name.startswith("container"):
            return name, {"DriverOpts": {"fast": "true"}}
        return text, {}
    name, endpoint = "", dict[str, Any]()
    for field in next(csv.reader([text])):
        key, equals, value = field.partition("=")
        if not equals:
            raise InvalidParameter(f'invalid argument "{text}" for "--network" flag: invalid field {field}')
        if key == "name":
            name = value
        elif key == "alias":
            endpoint.setdefault("Aliases", []).append(value)
        elif key in ("ip", "ip6"):
            endpoint.setdefault("IPAMConfig", {})["IPv4Address" if key == "ip" else "IPv6Address"] = value
        elif key == "link-local-ip":
            endpoint.setdefault("IPAMConfig", {}).setdefault("LinkLocalIPs", []).append(value)
        elif key == "mac-address":
            endpoint["MacAddress"] = value
        elif key == "driver-opt":
            option, _, setting = value.partition("=")
            endpoint.setdefault("DriverOpts", {})[option] = setting
        elif key == "gw-priority":
            endpoint["GwPriority"] = int(value) if value.lstrip("-").isdecimal() else 0
        else:
            raise InvalidParameter(f'invalid argument "{text}" for "--network" flag: invalid field key {key}')
    if not name:
        raise InvalidParameter(f'invalid argument "{text}" for "--network" flag: the name of the network is missing')
    return name, endpoint
