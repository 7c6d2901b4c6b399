"""POST /containers/create: the request and the image -> a container's record. Pure: everything is checked here, before
anything is made."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from rootless.engine.record import Record
from rootless.engine.volume_specs import anonymous_targets, mounts_of
from rootless.model import ports
from rootless.model.endpoints import links_of, mode_of
from rootless.model.errors import InvalidParameter
from rootless.model.networks import HOST
from rootless.runtime import capabilities
from rootless.settings import STORAGE_DRIVERS

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_HOSTNAME = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,62})")
MASKED_PATHS = (
    "/proc/asound /proc/acpi /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats "
    "/proc/sched_debug /proc/scsi /sys/firmware /sys/devices/virtual/powercap"
).split()
READONLY_PATHS = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger".split()
_LIMITS = {
    "Memory": "memory limit",
    "MemorySwap": "memory and swap limit",
    "MemoryReservation": "memory reservation",
    "NanoCpus": "CPU limit",
    "CpuShares": "CPU shares",
    "CpuQuota": "CPU quota",
    "CpuPeriod": "CPU period",
    "CpusetCpus": "CPU set",
    "PidsLimit": "limit of processes",
    "BlkioWeight": "block I/O weight",
    "Ulimits": "ulimits",
    "Devices": "devices",
    "VolumesFrom": "volumes of other containers",
}
_NAMESPACES = {  # docker's word for it, what is done, what else docker knows (or, after a colon, a container)
    "PidMode": ("PID", ("", "host"), ("container:",)),
    "IpcMode": ("IPC", ("", "host", "private", "shareable"), ("none", "container:")),
    "UTSMode": ("UTS", ("",), ("host",)),
    "UsernsMode": ("USER", ("",), ("host",)),
    "CgroupnsMode": ("CGROUP", ("", "private"), ("host",)),
}


def check_name(name: str) -> None:
    """Raises InvalidParameter in docker's words."""
    if not NAME.fullmatch(name):
        raise InvalidParameter(
            f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
        )


def arguments(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Entrypoint and Cmd joined. Raises InvalidParameter where there is nothing to run."""
    args = (*_strings(config, "Entrypoint"), *_strings(config, "Cmd"))
    if not args or (len(args) == 1 and not args[0]):
        raise InvalidParameter("no command specified")
    return args


def config_of(body: Mapping[str, Any], image: Mapping[str, Any], container_id: str) -> dict[str, Any]:
    """The container's Config: what was asked over what the image says. Raises InvalidParameter."""
    entrypoint, command = body.get("Entrypoint"), body.get("Cmd")
    if not entrypoint:
        command = command or image.get("Cmd")
        entrypoint = image.get("Entrypoint") if entrypoint is None else None
    given = {
        name: body[name]
        for name in (
            "Hostname Domainname User AttachStdin AttachStdout AttachStderr Tty OpenStdin StdinOnce Image "
            "WorkingDir NetworkDisabled MacAddress StopSignal StopTimeout Healthcheck Shell"
        ).split()
        if body.get(name) not in (None, "")
    }
    hostname = str(given.get("Hostname", container_id[:12]))
    if not _HOSTNAME.fullmatch(hostname):
        raise InvalidParameter(f"invalid hostname format: {hostname}")
    directory = str(given.get("WorkingDir") or image.get("WorkingDir") or "")
    if directory and not directory.startswith("/"):
        raise InvalidParameter(
            f"the working directory '{directory}' is invalid, it needs to be an absolute path",
        )
    made: dict[str, Any] = {
        "Hostname": hostname,
        "Domainname": "",
        "User": image.get("User") or "",
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "Image": "",
        **{name: image[name] for name in ("StopSignal", "Healthcheck", "Shell") if image.get(name)},
        **given,
        "WorkingDir": directory,
        "Env": merge_environment(_strings(image, "Env"), _strings(body, "Env")),
        "Cmd": command,
        "Entrypoint": entrypoint,
        "ExposedPorts": {**_object(image, "ExposedPorts"), **_object(body, "ExposedPorts")} or None,
        "Volumes": {**_object(image, "Volumes"), **_object(body, "Volumes")} or None,
        "Labels": {**_object(image, "Labels"), **_object(body, "Labels")},
        "OnBuild": None,
    }
    for port in made["ExposedPorts"] or {}:
        ports.container_port(port)
    if made["ExposedPorts"] is None:
        del made["ExposedPorts"]
    return made


def host_config_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """HostConfig with docker's defaults, checked. Raises InvalidParameter."""
    asked = _object(body, "HostConfig")
    made: dict[str, Any] = {**_HOST_DEFAULTS, **{name: value for name, value in asked.items() if value is not None}}
    made["NetworkMode"] = mode_of(made)
    bindings = made.get("PortBindings") or {}
    ports.publications(bindings)
    if made["Privileged"]:
        made["MaskedPaths"], made["ReadonlyPaths"] = [], []
    for name in ("MaskedPaths", "ReadonlyPaths"):
        if asked.get(name) is None and not made["Privileged"]:
            made[name] = MASKED_PATHS if name == "MaskedPaths" else READONLY_PATHS
    try:
        capabilities.combine(_strings(made, "CapAdd"), _strings(made, "CapDrop"))
    except ValueError as error:
        raise InvalidParameter(str(error)) from None
    for word in _strings(made, "SecurityOpt"):
        if word.partition("=")[0].partition(":")[0] not in ("no-new-privileges", "seccomp", "apparmor", "label"):
            raise InvalidParameter(f"invalid --security-opt 1: {word!r}")
    policy = _object(made, "RestartPolicy").get("Name") or "no"
    if policy not in ("no", "always", "on-failure", "unless-stopped"):
        raise InvalidParameter(
            f"invalid restart policy: unknown policy '{policy}'; use one of 'no', 'always', "
            "'on-failure', or 'unless-stopped'"
        )
    if made["AutoRemove"] and policy != "no":
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")
    for option, value in _object(made, "StorageOpt").items():
        if option != "driver" or value not in STORAGE_DRIVERS:
            raise InvalidParameter(
                f"invalid --storage-opt {option}={value}: there is driver={'|'.join(STORAGE_DRIVERS)} and nothing else"
            )
    for entry in _strings(made, "ExtraHosts"):
        _check_extra_host(entry)
    for text in _strings(made, "Dns"):
        if not _is_address(text):
            raise InvalidParameter(f"bad nameserver address: {text} is not an IP address")
    links_of(_strings(made, "Links"))
    for name, (word, done, known) in _NAMESPACES.items():
        if made[name] not in done and _without_name(made[name]) not in known:
            raise InvalidParameter(f"invalid {word} mode: {made[name]}")
    return made


_HOST_DEFAULTS: dict[str, Any] = {
    "Binds": None,
    "ContainerIDFile": "",
    "LogConfig": {"Type": "json-file", "Config": {}},
    "NetworkMode": "bridge",
    "PortBindings": {},
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "AutoRemove": False,
    "VolumeDriver": "",
    "VolumesFrom": None,
    "ConsoleSize": [0, 0],
    "CapAdd": None,
    "CapDrop": None,
    "CgroupnsMode": "private",
    "Dns": [],
    "DnsOptions": [],
    "DnsSearch": [],
    "ExtraHosts": None,
    "GroupAdd": None,
    "IpcMode": "private",
    "Cgroup": "",
    "Links": None,
    "OomScoreAdj": 0,
    "PidMode": "",
    "Privileged": False,
    "PublishAllPorts": False,
    "ReadonlyRootfs": False,
    "SecurityOpt": None,
    "UTSMode": "",
    "UsernsMode": "",
    "ShmSize": 64 << 20,
    "Runtime": "rootless",
    "Isolation": "",
    "CpuShares": 0,
    "Memory": 0,
    "NanoCpus": 0,
    "PidsLimit": None,
    "Ulimits": [],
    "MaskedPaths": None,
    "ReadonlyPaths": None,
}


def _check_extra_host(entry: str) -> None:
    name, _, address = entry.partition(":")
    if not name or not address:
        raise InvalidParameter(f'bad format for add-host: "{entry}"')
    if address != "host-gateway" and not _is_address(address):
        raise InvalidParameter(f'invalid IP address in add-host: "{address}"')


def _without_name(mode: object) -> str:
    """container:NAME -> container:"""
    kind, colon, name = str(mode).partition(":")
    return kind + colon if name else kind


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def warnings_of(host_config: Mapping[str, Any]) -> list[str]:
    """One for each thing asked for that is not enforced (yet): never silently."""
    found = []
    for name, words in _LIMITS.items():
        value = host_config.get(name)
        if value and not (name == "PidsLimit" and isinstance(value, int) and value < 0):
            found.append(f"{name}: {words} not enforced by this version of rootless: ignored.")
    for name, (word, done, _) in _NAMESPACES.items():
        if host_config[name] not in done:
            found.append(f"{name}: {word} mode {host_config[name]} not supported by this version of rootless: ignored.")
    if host_config["NetworkMode"] == HOST and host_config["PortBindings"]:
        found.append("Published ports are discarded when using host network mode")
    if _object(host_config, "RestartPolicy").get("Name") not in (None, "", "no"):
        found.append("RestartPolicy: containers are not restarted by this version of rootless. It was ignored.")
    return found


def make_record(
    body: Mapping[str, Any],
    image_config: Mapping[str, Any],
    *,
    container_id: str,
    name: str,
    created: str,
    image_id: str,
    volume_path: Callable[[str], str],
    new_volume: Callable[[], str],
    endpoints: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Record, list[str]]:
    """The record, and warnings. Raises InvalidParameter."""
    config = config_of(body, image_config, container_id)
    host_config = host_config_of(body)
    mounts = mounts_of(host_config, anonymous_targets(config, host_config), volume_path, new_volume)
    record = Record(
        id=container_id,
        name=name,
        created=created,
        image=str(body.get("Image") or ""),
        image_id=image_id,
        args=arguments(config),
        config=config,
        host_config=host_config,
        endpoints=dict(endpoints),
        mounts=tuple(mounts),
    )
    return record, warnings_of(host_config)


def merge_environment(image: Sequence[str], asked: Sequence[str]) -> list[str]:
    """NAME=value; what was asked replaces the image's; a bare NAME removes it. PATH has a default elsewhere."""
    merged = {entry.partition("=")[0]: entry for entry in image}
    for entry in asked:
        name, equals, _ = entry.partition("=")
        if not name or "\0" in entry:
            raise InvalidParameter(f"invalid environment variable: {entry}")
        merged.pop(name, None)
        if equals:
            merged[name] = entry
    return list(merged.values())


def _strings(value: Mapping[str, Any], name: str) -> list[str]:
    found = value.get(name)
    if found is None:
        return []
    if isinstance(found, str):
        found = [found]
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise InvalidParameter(f"{name} must be a list of strings")
    if any("\0" in item for item in found):
        raise InvalidParameter(f"{name} holds a NUL character")
    return found


def _object(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidParameter(f"{name} must be an object")
    return found
