"""A container's record -> what the launcher is asked to run. Pure."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rootless.engine.record import Record
from rootless.engine.volume_specs import populates, runtime_options
from rootless.model.endpoints import CONTAINER
from rootless.model.errors import InvalidParameter
from rootless.runtime import capabilities
from rootless.runtime.spec import DEFAULT_PATH, ContainerSpec, GuestNetwork, MountSpec, ProcessSpec, RootSpec, UnionSpec

ETC_FILES = ("hosts", "hostname", "resolv.conf")


def container_spec(
    record: Record,
    lower: str | UnionSpec,
    directory: Path,
    networks: Sequence[GuestNetwork],
    neighbour: Record | None = None,
    linked: Sequence[str] = (),
) -> ContainerSpec:
    """`lower` is where the image is mounted, or what is to be served below the container's own layer; `directory` the
    container's own on disk. `neighbour` is the container whose network it shares, with /etc/hosts and the like.
    `linked` are variables about those it is linked to."""
    config, host = record.config, record.host_config
    owner = neighbour or record
    etc_directory = directory.with_name(owner.id) if neighbour else directory
    host_network = owner.host_config["NetworkMode"] == "host"
    targets = {mount["Destination"] for mount in record.mounts}
    etc = [
        MountSpec("bind", f"/etc/{name}", str(etc_directory / name), ("rprivate",))
        for name in ETC_FILES
        if f"/etc/{name}" not in targets
    ]
    volumes = [
        MountSpec(kind_of(mount), mount["Destination"], mount["Source"], runtime_options(mount), populates(mount))
        for mount in record.mounts
    ]
    return ContainerSpec(
        container_id=record.id,
        hostname=owner.config["Hostname"],
        domainname=config["Domainname"],
        root=root_spec(lower, directory, bool(host["ReadonlyRootfs"])),
        process=process_spec(record, linked),
        mounts=(*etc, *volumes),
        network="host" if host_network else f"{CONTAINER}{owner.id}" if neighbour else "private",
        guest_networks=tuple(networks),
        pid="host" if host["PidMode"] == "host" else "private",
        ipc="host" if host["IpcMode"] == "host" else "private",
        uts="host" if host["UTSMode"] == "host" else "private",
        masked_paths=tuple(host["MaskedPaths"] or ()),
        readonly_paths=tuple(host["ReadonlyPaths"] or ()),
        sysctls=tuple((str(name), str(value)) for name, value in (host.get("Sysctls") or {}).items()),
        shm_bytes=int(host.get("ShmSize") or 64 << 20),
        init=bool(host.get("Init")),
        privileged=bool(host["Privileged"]),
    )


def root_spec(lower: str | UnionSpec, directory: Path, read_only: bool) -> RootSpec:
    path, union = (lower, None) if isinstance(lower, str) else ("", lower)
    return RootSpec(path, str(directory / "upper"), str(directory / "work"), read_only, union)


def kind_of(mount: Mapping[str, Any]) -> str:
    return "tmpfs" if mount["Type"] == "tmpfs" else "bind"


def process_spec(record: Record, linked: Sequence[str]) -> ProcessSpec:
    config, host = record.config, record.host_config
    return ProcessSpec(
        args=record.args,
        environment=environment(with_defaults(config["Env"], linked), bool(config["Tty"]), config["Hostname"]),
        cwd=config["WorkingDir"] or "/",
        user=config["User"],
        additional_groups=tuple(str(group) for group in host.get("GroupAdd") or ()),
        terminal=bool(config["Tty"]),
        terminal_size=terminal_size(host.get("ConsoleSize")),
        open_stdin=bool(config["OpenStdin"]),
        capabilities=_capabilities(host, bool(host["Privileged"])),
        no_new_privileges=_no_new_privileges(host),
    )


def exec_spec(record: Record, body: Mapping[str, Any], linked: Sequence[str] = ()) -> ProcessSpec:
    """POST /containers/{id}/exec -> the process. Raises InvalidParameter."""
    command = body.get("Cmd")
    if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
        raise InvalidParameter("No exec command specified")
    terminal = bool(body.get("Tty"))
    asked = [str(entry) for entry in body.get("Env") or []]
    known = with_defaults(record.config["Env"], linked)
    privileged = bool(body.get("Privileged")) or bool(record.host_config["Privileged"])
    return ProcessSpec(
        args=tuple(command),
        environment=environment([*_without(known, asked), *(entry for entry in asked if "=" in entry)], terminal, ""),
        cwd=str(body.get("WorkingDir") or record.config["WorkingDir"] or "/"),
        user=str(body.get("User") or record.config["User"]),
        additional_groups=tuple(str(group) for group in record.host_config.get("GroupAdd") or ()),
        terminal=terminal,
        terminal_size=terminal_size(body.get("ConsoleSize")),
        open_stdin=bool(body.get("AttachStdin")),
        capabilities=_capabilities(record.host_config, privileged),
        no_new_privileges=_no_new_privileges(record.host_config),
    )


def terminal_size(console_size: Sequence[int] | None) -> tuple[int, int]:
    """ConsoleSize -> (rows, columns), (0, 0) where it is none that a terminal can have."""
    rows, columns = (*(console_size or ()), 0, 0)[:2]
    return (rows, columns) if 0 <= rows < 65536 and 0 <= columns < 65536 else (0, 0)


def with_defaults(entries: Sequence[str], defaults: Sequence[str]) -> list[str]:
    """Variables, and those of `defaults` that are not among them."""
    return [*_without(defaults, entries), *entries]


def _without(entries: Sequence[str], others: Sequence[str]) -> list[str]:
    names = {entry.partition("=")[0] for entry in others}
    return [entry for entry in entries if entry.partition("=")[0] not in names]


def environment(entries: Sequence[str], terminal: bool, hostname: str) -> tuple[str, ...]:
    """docker's additions: PATH, HOSTNAME, TERM, unless given."""
    names = {entry.partition("=")[0] for entry in entries}
    added = []
    if "PATH" not in names:
        added.append(f"PATH={DEFAULT_PATH}")
    if hostname and "HOSTNAME" not in names:
        added.append(f"HOSTNAME={hostname}")
    if terminal and "TERM" not in names:
        added.append("TERM=xterm")
    return (*added, *entries)


def signal_number(text: str) -> int:
    """ "TERM", "SIGTERM", "15", "RTMIN+3" -> the number. Raises InvalidParameter in docker's words."""
    word = text.strip().upper().removeprefix("SIG")
    if word.isdecimal():
        number = int(word)
    elif word.startswith("RTMIN"):
        number = signal.SIGRTMIN + _offset(word[5:], text)
    elif word.startswith("RTMAX"):
        number = signal.SIGRTMAX - _offset(word[5:].replace("-", "+"), text)
    else:
        number = getattr(signal, f"SIG{word}", 0) if word.isalnum() else 0
    if not 0 < number < signal.NSIG:
        raise InvalidParameter(f"invalid signal: {text}")
    return int(number)


def _offset(text: str, whole: str) -> int:
    if not text:
        return 0
    if text[0] != "+" or not text[1:].isdecimal():
        raise InvalidParameter(f"invalid signal: {whole}")
    return int(text[1:])


def _capabilities(host: Mapping[str, Any], privileged: bool) -> tuple[str, ...]:
    return capabilities.combine(host.get("CapAdd") or (), host.get("CapDrop") or (), privileged)


def _no_new_privileges(host: Mapping[str, Any]) -> bool:
    for word in host.get("SecurityOpt") or ():
        name, _, value = str(word).replace(":", "=").partition("=")
        if name == "no-new-privileges":
            return value.lower() in ("", "true", "1")
    return False
