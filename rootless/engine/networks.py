"""Networks as the engine knows them: addresses, published ports, the API's shapes. Packets are slirp's.

One network for now, docker's default `bridge`, and the two names that are none: `host` and `none`."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rootless.engine.link import Link
from rootless.launcher import messages
from rootless.model import clock, ports
from rootless.model.errors import Conflict, InvalidParameter, NotFound, RootlessError, Unavailable
from rootless.model.ports import Publication
from rootless.runtime.spec import GuestNetwork
from rootless.settings import Settings

PREDEFINED = ("bridge", "host", "none")
TUN_DEVICE = "/dev/net/tun"


@dataclass(frozen=True)
class BoundPort:
    """A published port whose socket on the host listens already."""

    publication: Publication
    socket: socket.socket

    @property
    def row(self) -> tuple[int, str, str, int]:
        wanted = self.publication
        return wanted.container_port, wanted.protocol, wanted.host_ip, wanted.host_port


class Networks:
    """Addresses are free again when `release` is called; `adopt` takes those of containers that run already."""

    def __init__(self, settings: Settings, link: Link) -> None:
        self._link = link
        subnet = ipaddress.IPv4Network(settings.bridge_subnet)
        self.gateway = str(next(subnet.hosts()))
        self.mtu = settings.mtu
        self._subnet = subnet
        self._used: dict[str, str] = {}  # address -> container id
        self._last = 1

    # ------------------------------------------------------------------------------------------------ addresses
    def attach(self, container_id: str, host_config: Mapping[str, Any]) -> tuple[list[GuestNetwork], dict[str, Any]]:
        """(devices to make, the API's endpoints) for a container about to start. Raises NotFound, RootlessError."""
        mode = host_config["NetworkMode"]
        if mode in ("none", "host"):
            return [], {mode: _endpoint(mode, container_id, "", "", "", 0)}
        if mode != "bridge":
            raise NotFound(f"network {mode} not found")
        problem = device_problem()
        if problem:
            return [], {}
        address = self._next_address(container_id)
        mac = "02:42:" + ":".join(f"{byte:02x}" for byte in ipaddress.IPv4Address(address).packed)
        guest = GuestNetwork(
            "bridge",
            container_id,
            "eth0",
            mac,
            self.mtu,
            f"{address}/{self._subnet.prefixlen}",
            self.gateway,
        )
        shown = _endpoint("bridge", container_id, address, mac, self.gateway, self._subnet.prefixlen)
        return [guest], {"bridge": shown}

    def _next_address(self, container_id: str) -> str:
        size = self._subnet.num_addresses
        for step in range(1, size):
            offset = (self._last + step) % size
            if offset < 2 or offset == size - 1:  # network, gateway, broadcast
                continue
            address = str(self._subnet[offset])
            if address not in self._used:
                self._used[address] = container_id
                self._last = offset
                return address
        raise RootlessError(f"no free address is left in {self._subnet}; set bridge_subnet to a larger one")

    def adopt(self, container_id: str, endpoints: Mapping[str, Mapping[str, Any]]) -> None:
        for endpoint in endpoints.values():
            if endpoint.get("IPAddress"):
                self._used[endpoint["IPAddress"]] = container_id

    def release(self, container_id: str) -> None:
        self._used = {address: owner for address, owner in self._used.items() if owner != container_id}

    # ------------------------------------------------------------------------------------------------ ports
    def bind(self, publications: Iterable[Publication]) -> list[BoundPort]:
        """Listen on the host for each. Raises Conflict, InvalidParameter and leaves none bound."""
        bound: list[BoundPort] = []
        try:
            for wanted in publications:
                bound.append(_bind(wanted))
        except BaseException:
            close_ports(bound)
            raise
        return bound

    async def publish(self, container_id: str, bound: Sequence[BoundPort]) -> None:
        """Give the sockets to the network. Raises LaunchFailure."""
        for index, port in enumerate(bound):
            wanted = port.publication
            key = f"{container_id}/{index}"
            command: dict[str, object] = {
                "type": "Publish",
                "publish_id": key,
                "endpoint_id": container_id,
                "guest_port": wanted.container_port,
                "protocol": wanted.protocol,
                "host_ip": wanted.host_ip,
                "host_port": wanted.host_port,
            }
            message = messages.NetworkCommand("bridge", command, key=key)
            await self._link.request(message, [port.socket.fileno()])
        close_ports(bound)

    async def unpublish(self, container_id: str, count: int) -> None:
        for index in range(count):
            key = f"{container_id}/{index}"
            command: dict[str, object] = {"type": "Unpublish", "publish_id": key}
            try:
                await self._link.request(messages.NetworkCommand("bridge", command, forget_key=key))
            except RootlessError:
                continue  # the network has died, and the port with it

    async def ready(self) -> None:
        """Start the network's process if it does not run."""
        # the fields of slirp.NetworkConfig; importing slirp would cost the engine's start 100 ms
        config: dict[str, object] = {
            "name": "bridge",
            "subnet4": str(self._subnet),
            "gateway4": self.gateway,
            "mtu": self.mtu,
        }
        await self._link.network_started("bridge", config)

    # ------------------------------------------------------------------------------------------------ shapes
    def all(self, containers: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """GET /networks; `containers`: id -> {"name", "networks"} of those that run."""
        return [self._shape(name, containers) for name in PREDEFINED]

    def inspect(self, text: str, containers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """By name or a prefix of the id. Raises NotFound."""
        for name in PREDEFINED:
            if text == name or (len(text) >= 4 and network_id(name).startswith(text)):
                return self._shape(name, containers)
        raise NotFound(f"network {text} not found")

    def _shape(self, name: str, containers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        config = [{"Subnet": str(self._subnet), "Gateway": self.gateway}] if name == "bridge" else []
        members = {}
        for container_id, container in containers.items():
            endpoint = container["networks"].get(name)
            if endpoint is not None:
                prefix = f"/{endpoint['IPPrefixLen']}" if endpoint["IPAddress"] else ""
                members[container_id] = {
                    "Name": container["name"],
                    "EndpointID": endpoint["EndpointID"],
                    "MacAddress": endpoint["MacAddress"],
                    "IPv4Address": f"{endpoint['IPAddress']}{prefix}",
                    "IPv6Address": "",
                }
        return {
            "Name": name,
            "Id": network_id(name),
            "Created": clock.ZERO,
            "Scope": "local",
            "Driver": {"bridge": "bridge", "host": "host", "none": "null"}[name],
            "EnableIPv4": True,
            "EnableIPv6": False,
            "IPAM": {"Driver": "default", "Options": None, "Config": config},
            "Internal": False,
            "Attachable": False,
            "Ingress": False,
            "ConfigFrom": {"Network": ""},
            "ConfigOnly": False,
            "Containers": members,
            "Options": {"com.docker.network.driver.mtu": str(self.mtu)} if name == "bridge" else {},
            "Labels": {},
        }


def network_id(name: str) -> str:
    """The same on every machine: there is one of each."""
    return hashlib.sha256(f"rootless network {name}".encode()).hexdigest()


def device_problem() -> str:
    """Why there can be no network device; "" where there can."""
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return (
            f"{TUN_DEVICE} cannot be opened ({(error.strerror or '').lower()}): containers have no network but "
            "loopback. Use --network host or none, or ask the administrator for: modprobe tun && chmod 666 "
            f"{TUN_DEVICE}"
        )
    return ""


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


def close_ports(bound: Iterable[BoundPort]) -> None:
    for port in bound:
        port.socket.close()


def _bind(wanted: Publication) -> BoundPort:
    if wanted.protocol not in ("tcp", "udp"):
        raise InvalidParameter(f"publishing {wanted.protocol} ports is not possible, only tcp and udp")
    host = wanted.host_ip or "0.0.0.0"
    shown = f"{host}:{wanted.host_port}"
    kind = socket.SOCK_STREAM if wanted.protocol == "tcp" else socket.SOCK_DGRAM
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        ipaddress.ip_address(host)
    except ValueError:
        raise InvalidParameter(f"invalid IP address: {host}") from None
    made = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, wanted.host_port))
        if kind == socket.SOCK_STREAM:
            made.listen(1024)
    except OSError as error:
        made.close()
        raise _refused(error, shown, wanted.host_port) from error
    return BoundPort(Publication(wanted.container_port, wanted.protocol, host, made.getsockname()[1]), made)


def _refused(error: OSError, shown: str, port: int) -> RootlessError:
    import errno

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


def _endpoint(name: str, container_id: str, address: str, mac: str, gateway: str, prefix: int) -> dict[str, Any]:
    return {
        "IPAMConfig": None,
        "Links": None,
        "Aliases": None,
        "DriverOpts": None,
        "NetworkID": network_id(name),
        "EndpointID": container_id,
        "Gateway": gateway,
        "IPAddress": address,
        "IPPrefixLen": prefix,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "MacAddress": mac,
        "DNSNames": None,
    }
