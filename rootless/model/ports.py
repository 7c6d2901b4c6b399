"""Published ports as the Engine API has them: {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rootless.model.errors import InvalidParameter

PROTOCOLS = ("tcp", "udp", "sctp")


@dataclass(frozen=True)
class Publication:
    """One port of a container on one of the host; `host_port` 0 asks for a free one, `host_ip` "" means any."""

    container_port: int
    protocol: str
    host_ip: str
    host_port: int


def publications(bindings: object) -> list[Publication]:
    """HostConfig.PortBindings as a list. Raises InvalidParameter."""
    if not isinstance(bindings, Mapping):
        if bindings is None:
            return []
        raise InvalidParameter("PortBindings must be an object")
    found = []
    for key, hosts in bindings.items():
        number, protocol = container_port(str(key))
        for host in hosts or [{}]:
            if not isinstance(host, Mapping):
                raise InvalidParameter(f"invalid port binding for {key}")
            found.append(Publication(number, protocol, str(host.get("HostIp") or ""), _host_port(host)))
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


def _host_port(host: Mapping[str, Any]) -> int:
    text = str(host.get("HostPort") or "0")
    first = text.partition("-")[0]
    if not first.isdecimal() or int(first) > 65535:
        raise InvalidParameter(f"invalid port specification: {text!r}")
    return int(first)
