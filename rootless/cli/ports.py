"""`-p` and `--expose` -> the API's ExposedPorts and PortBindings. Pure.

`[[address:]host port[-last]:]container port[-last][/protocol]`; an IPv6 address stands in brackets."""

from __future__ import annotations

import ipaddress
import re

from rootless.model.errors import InvalidParameter

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
PROTOCOLS = ("tcp", "udp", "sctp")
Bindings = dict[str, list[dict[str, str]]]


def published(specifications: tuple[str, ...]) -> Bindings:
    """("127.0.0.1:8080:80",) -> {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}. Raises InvalidParameter."""
    bindings: Bindings = {}
    for specification in specifications:
        _add(bindings, _long_form(specification) if "=" in specification else specification)
    return bindings


def exposed(specifications: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """("80", "90-91/udp") -> {"80/tcp": {}, "90/udp": {}, "91/udp": {}}. Raises InvalidParameter."""
    found: dict[str, dict[str, str]] = {}
    for specification in specifications:
        if ":" in specification:
            raise InvalidParameter(f"invalid port format for --expose: {specification}")
        numbers, _, protocol = specification.partition("/")
        try:
            first, last = _range(numbers, "port")
        except InvalidParameter as error:
            raise InvalidParameter(f"invalid range format for --expose: {numbers}, error: {error.message}") from None
        found |= {f"{number}/{_protocol(protocol)}": {} for number in range(first, last + 1)}
    return found


def _add(bindings: Bindings, specification: str) -> None:
    address, host, container = _parts(specification)
    numbers, _, protocol = container.partition("/")
    protocol = _protocol(protocol)
    if not numbers:
        raise InvalidParameter(f"no port specified: {specification}<empty>")
    first, last = _range(numbers, "containerPort")
    if host in ("", "0"):  # a free one
        for number in range(first, last + 1):
            bindings.setdefault(f"{number}/{protocol}", []).append({"HostIp": address, "HostPort": ""})
        return
    host_first, host_last = _range(host, "hostPort")
    if last - first != host_last - host_first:
        if first != last:
            raise InvalidParameter(
                f"invalid ranges specified for container and host Ports: {numbers} and {host}",
            )
        # one port inside, several outside: the engine takes one of them that is free
        row = {"HostIp": address, "HostPort": f"{host_first}-{host_last}"}
        bindings.setdefault(f"{first}/{protocol}", []).append(row)
        return
    for number in range(first, last + 1):
        row = {"HostIp": address, "HostPort": str(host_first + number - first)}
        bindings.setdefault(f"{number}/{protocol}", []).append(row)


def _parts(specification: str) -> tuple[str, str, str]:
    """(address, host port, container port)."""
    if specification.startswith("["):
        address, bracket, rest = specification[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise InvalidParameter(f"invalid IP address: {specification}")
        parts = [address, *rest[1:].split(":")]
    else:
        parts = specification.split(":")
        if len(parts) > 3:  # an IPv6 address without brackets
            parts = [":".join(parts[:-2]), *parts[-2:]]
    address, host, container = ["", "", *parts][-3:]
    if address:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise InvalidParameter(f"invalid IP address: {address}") from None
    return address, host, container


def _long_form(specification: str) -> str:
    """("target=80,published=8080,protocol=tcp") -> the short form."""
    values: dict[str, str] = {}
    for pair in specification.split(","):
        name, equals, value = pair.partition("=")
        if not equals or name not in ("protocol", "mode", "target", "published"):
            raise InvalidParameter(f"invalid field {pair}" if not equals else f"invalid field key {name}")
        values[name] = value
    host = values.get("published", "")
    return f"{host}:{values.get('target', '')}/{values.get('protocol', 'tcp')}"


def _range(text: str, what: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(text)
    if not match:
        raise InvalidParameter(f"invalid {what}: {text}")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 0 < last < 65536 or first > last:
        raise InvalidParameter(f"invalid {what}: {text}")
    return first, last


def _protocol(text: str) -> str:
    protocol = text.lower() or "tcp"
    if protocol not in PROTOCOLS:
        raise InvalidParameter(f"invalid proto: {text}")
    return protocol
