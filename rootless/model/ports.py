"""Published ports as the Engine API has them: {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rootless.model.errors import InvalidParameter

PROTOCOLS = ("tcp", "udp", "sctp")


@dataclass(frozen=True)
class Publication:
    """One port of a container on one of the host; `host_port` 0 asks for a free one, `host_ip` "" means any. With
    `host_port_end` it is the first free one up to that."""

    container_port: int
    protocol: str
    host_ip: str
    host_port: int
    host_port_end: int = 0


def publications(bindings: Mapping[str, Any] | None) -> list[Publication]:
    """HostConfig.PortBindings as a list. Raises InvalidParameter."""
    found = []
    for key, hosts in (bindings or {}).items():
        number, protocol = container_port(str(key))
        for host in hosts or [{}]:
            found.append(Publication(number, protocol, str(host.get("HostIp") or ""), *_host_ports(host)))
    return found


def container_port(text: str) -> tuple[int, str]:
    """("80/tcp") -> (80, "tcp"). Raises InvalidParameter."""
    number, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in PROTOCOLS:
        raise InvalidParameter(f"invalid proto: {protocol}")
    if not number.isdecimal() or not 0 < int(number) < 65536:
        raise InvalidParameter(f"invalid port specification: {text!r}")
    return int(number), protocol


def _host_ports(host: Mapping[str, Any]) -> tuple[int, int]:
    """(8000, 8010) of "8000-8010", (80, 0) of "80"."""
    text = str(host.get("HostPort") or "0")
    first, dash, last = text.partition("-")
    numbers = [first, last] if dash else [first]
    if not all(number.isdecimal() and int(number) < 65536 for number in numbers):
        raise InvalidParameter(f"invalid port specification: {text!r}")
    if dash and not 0 < int(first) <= int(last):
        raise InvalidParameter(f"invalid port specification: {text!r}: the range ends before it begins")
    return int(first), int(last) if dash else 0
