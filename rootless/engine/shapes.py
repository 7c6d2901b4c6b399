"""A container in the API's shapes: GET /containers/json and /containers/{id}/json. Pure: the time is an argument."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rootless.engine.container import Container
from rootless.model import clock, states
from rootless.model.clock import human_duration


def status_text(container: Container, now_ns: int) -> str:
    """docker's words: "Up 3 seconds", "Exited (0) 2 minutes ago", "Created"."""
    state = container.state
    if state.status == states.RUNNING:
        return f"Up {human_duration(now_ns - clock.nanoseconds(state.started_at))}"
    if state.status == states.EXITED:
        return f"Exited ({state.exit_code}) {human_duration(now_ns - clock.nanoseconds(state.finished_at))} ago"
    return {states.CREATED: "Created", states.REMOVING: "Removal In Progress"}.get(state.status, "Dead")


def summary(container: Container, now_ns: int, networks: Mapping[str, Any]) -> dict[str, Any]:
    """A row of GET /containers/json. `networks`: name -> EndpointSettings."""
    record = container.record
    image = record.image
    if re.fullmatch(r"[0-9a-f]{12,64}", image.removeprefix("sha256:")):
        image = record.image_id
    return {
        "Id": record.id,
        "Names": [f"/{record.name}"],
        "Image": image,
        "ImageID": record.image_id,
        "Command": command_line(record.args),
        "Created": clock.nanoseconds(record.created) // 10**9,
        "Ports": _port_rows(container),
        "Labels": record.config["Labels"],
        "State": container.state.status,
        "Status": status_text(container, now_ns),
        "HostConfig": {"NetworkMode": record.host_config["NetworkMode"]},
        "NetworkSettings": {"Networks": networks},
        "Mounts": [_mount(mount) for mount in record.mounts],
    }


def command_line(args: Sequence[str]) -> str:
    """The command as `ps` shows it: words with blanks in single quotes."""
    return " ".join(f"'{word}'" if " " in word else word for word in args)


def inspect(
    container: Container, directory: Path, driver: str, networks: Mapping[str, Any], execs: Sequence[str]
) -> dict[str, Any]:
    """GET /containers/{id}/json."""
    record, state = container.record, container.state
    running = state.status == states.RUNNING
    return {
        "Id": record.id,
        "Created": record.created,
        "Path": record.args[0],
        "Args": list(record.args[1:]),
        "State": {
            "Status": state.status,
            "Running": running,
            "Paused": False,
            "Restarting": False,
            "OOMKilled": False,
            "Dead": state.status == states.DEAD,
            "Pid": state.pid,
            "ExitCode": state.exit_code,
            "Error": state.error,
            "StartedAt": state.started_at,
            "FinishedAt": state.finished_at,
        },
        "Image": record.image_id,
        "ResolvConfPath": str(directory / "resolv.conf"),
        "HostnamePath": str(directory / "hostname"),
        "HostsPath": str(directory / "hosts"),
        "LogPath": str(directory / "log.json"),
        "Name": f"/{record.name}",
        "RestartCount": state.restarts,
        "Driver": driver,
        "Platform": record.platform,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": list(execs) or None,
        "HostConfig": record.host_config,
        "GraphDriver": {"Name": driver, "Data": {"UpperDir": str(directory / "upper")}},
        "Mounts": [_mount(mount) for mount in record.mounts],
        "Config": record.config,
        "NetworkSettings": _network_settings(container, networks),
    }


def _network_settings(container: Container, networks: Mapping[str, Any]) -> dict[str, Any]:
    first: Mapping[str, Any] = networks.get("bridge") or {}
    return {
        "Bridge": "",
        "SandboxID": container.id if container.running else "",
        "SandboxKey": f"/proc/{container.state.pid}/ns/net" if container.running else "",
        "Ports": port_map(container),
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": first.get("EndpointID", ""),
        "Gateway": first.get("Gateway", ""),
        "GlobalIPv6Address": first.get("GlobalIPv6Address", ""),
        "GlobalIPv6PrefixLen": first.get("GlobalIPv6PrefixLen", 0),
        "IPAddress": first.get("IPAddress", ""),
        "IPPrefixLen": first.get("IPPrefixLen", 0),
        "IPv6Gateway": first.get("IPv6Gateway", ""),
        "MacAddress": first.get("MacAddress", ""),
        "Networks": networks,
    }


def port_map(container: Container) -> dict[str, Any]:
    """{"80/tcp": [{"HostIp", "HostPort"}], "81/tcp": None}: what is published, and what is only exposed."""
    if not container.running:
        return {}
    found: dict[str, Any] = dict.fromkeys(container.record.config.get("ExposedPorts") or {})
    for port, protocol, host_ip, host_port in container.state.ports:
        row = {"HostIp": host_ip, "HostPort": str(host_port)}
        found[f"{port}/{protocol}"] = [*(found.get(f"{port}/{protocol}") or []), row]
    return found


def _port_rows(container: Container) -> list[dict[str, Any]]:
    if not container.running:
        return []
    rows: list[dict[str, Any]] = []
    for text, hosts in port_map(container).items():
        number, _, protocol = text.partition("/")
        base = {"PrivatePort": int(number), "Type": protocol}
        rows += [{"IP": h["HostIp"], **base, "PublicPort": int(h["HostPort"])} for h in hosts or []] or [base]
    return rows


def _mount(mount: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in mount.items() if name != "MustExist"}
