"""Published ports: sockets bound on the host before a container starts, so that a conflict is known before anything is
made. The network's process gets them; the launcher keeps duplicates for its restart."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rootless.model import ports
from rootless.model.errors import Conflict, InvalidParameter, RootlessError, Unavailable
from rootless.model.ports import Publication

BACKLOG = 4096  # the kernel takes less where net.core.somaxconn is less
ANY4, ANY6 = "0.0.0.0", "::"
_TRIES = 16  # for a free port that is free for both families
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


@dataclass(frozen=True)
class BoundPort:
    """A published port whose socket on the host listens already."""

    publication: Publication
    socket: socket.socket

    @property
    def row(self) -> tuple[int, str, str, int]:
        wanted = self.publication
        return wanted.container_port, wanted.protocol, wanted.host_ip, wanted.host_port


def publications_of(host_config: Mapping[str, Any], exposed: Iterable[str]) -> list[Publication]:
    """What a container publishes, with -P's random ports. Raises InvalidParameter."""
    found = ports.publications(host_config.get("PortBindings"))
    if host_config.get("PublishAllPorts"):
        known = {(wanted.container_port, wanted.protocol) for wanted in found}
        for text in exposed:
            port = ports.container_port(text)
            if port not in known:
                found.append(Publication(*port, "", 0))
    return found


def bind(publications: Iterable[Publication], default_ip: str = "") -> list[BoundPort]:
    """Listen on the host for each; without an address that is `default_ip`, or every IPv4 and IPv6 address of the host.
    Raises Conflict, InvalidParameter, Unavailable and leaves none bound."""
    bound: list[BoundPort] = []
    try:
        for wanted in publications:
            if wanted.protocol not in ("tcp", "udp"):
                raise InvalidParameter(f"publishing {wanted.protocol} ports is not possible, only tcp and udp")
            bound += _bind_one_of(replace(wanted, host_ip=wanted.host_ip or default_ip))
    except BaseException:
        close_ports(bound)
        raise
    return bound


def close_ports(bound: Iterable[BoundPort]) -> None:
    for port in bound:
        port.socket.close()


def _bind_one_of(wanted: Publication) -> list[BoundPort]:
    """The first free port of a range."""
    last = max(wanted.host_port, wanted.host_port_end)
    for number in range(wanted.host_port, last + 1):
        try:
            return _bind_everywhere(replace(wanted, host_port=number, host_port_end=0))
        except Conflict:
            if number == last:
                raise
    raise AssertionError("a range has a last port")


def _bind_everywhere(wanted: Publication) -> list[BoundPort]:
    if wanted.host_ip:
        return [_bind(wanted)]
    for attempt in range(_TRIES):
        first = _bind(replace(wanted, host_ip=ANY4))
        try:
            return [first, _bind(replace(wanted, host_ip=ANY6, host_port=first.publication.host_port))]
        except OSError:
            return [first]  # a host without IPv6
        except Conflict:
            first.socket.close()
            if wanted.host_port or attempt == _TRIES - 1:
                raise
        except BaseException:
            first.socket.close()
            raise
    raise AssertionError("the last attempt returns or raises")


def _bind(wanted: Publication) -> BoundPort:
    """Raises RootlessError, and OSError where the host has no IPv6."""
    host = wanted.host_ip
    kind = socket.SOCK_STREAM if wanted.protocol == "tcp" else socket.SOCK_DGRAM
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        raise InvalidParameter(f"invalid IP address: {host}") from None
    made = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((host, wanted.host_port))
        if kind == socket.SOCK_STREAM:
            made.listen(BACKLOG)
    except OSError as error:
        made.close()
        if host == ANY6 and error.errno in _NO_IPV6:
            raise
        shown = f"[{host}]:{wanted.host_port}" if family == socket.AF_INET6 else f"{host}:{wanted.host_port}"
        raise _refused(error, shown, wanted.host_port) from error
    return BoundPort(replace(wanted, host_port=made.getsockname()[1]), made)


def _refused(error: OSError, shown: str, port: int) -> RootlessError:
    if error.errno == errno.EADDRINUSE:
        return Conflict(f"Bind for {shown} failed: port is already allocated")
    if error.errno == errno.EACCES:
        return Unavailable(
            f"Bind for {shown} failed: ports below {_first_free_port()} need root on this machine; take a higher one, "
            f"or ask the administrator for: sysctl net.ipv4.ip_unprivileged_port_start={port}"
        )
    return Unavailable(f"Bind for {shown} failed: {(error.strerror or str(error)).lower()}")


def _first_free_port() -> str:
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
            return file.read().strip()
    except OSError:
        return "1024"
