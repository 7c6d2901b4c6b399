"""`rootless info`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rootless import __version__
from rootless.cli.command import command as declare
from rootless.cli.command import flag
from rootless.cli.invocation import Invocation
from rootless.cli.listing import executed, go_json, parsed
from rootless.cli.units import binary_size

_ROWS = [
    ("Containers", "Containers", 0),
    ("Running", "ContainersRunning", 1),
    ("Paused", "ContainersPaused", 1),
    ("Stopped", "ContainersStopped", 1),
    ("Images", "Images", 0),
    ("Server Version", "ServerVersion", 0),
    ("Storage Driver", "Driver", 0),
    ("Logging Driver", "LoggingDriver", 0),
    ("Cgroup Driver", "CgroupDriver", 0),
    ("Cgroup Version", "CgroupVersion", 0),
    ("Security Options", "SecurityOptions", 0),
    ("Kernel Version", "KernelVersion", 0),
    ("Operating System", "OperatingSystem", 0),
    ("OSType", "OSType", 0),
    ("Architecture", "Architecture", 0),
    ("CPUs", "NCPU", 0),
    ("Total Memory", "MemTotal", 0),
    ("Name", "Name", 0),
    ("ID", "ID", 0),
    ("Root Dir", "DockerRootDir", 0),
]
_SHOWN = {key for _, key, _ in _ROWS} | {"DriverStatus", "Warnings", "ServerErrors"}


@declare("info")
@flag("-f", "--format", default="", help="json, or a template")
def command(invocation: Invocation, args: tuple[str, ...], format: str) -> None:
    """Show the engine, this host and the settings in force"""
    info = invocation.client.call("GET", "/info")
    info["ClientInfo"] = {"Version": __version__, "Context": "default", "Debug": False}
    if format == "json":
        invocation.say(go_json(info))
    elif format:
        invocation.say(executed(parsed(format), info))
    else:
        _show(invocation, info)
    for warning in (info.get("Warnings") or []) if format == "" else []:
        invocation.complain(warning if warning.startswith("WARNING") else f"WARNING: {warning}")


def _show(invocation: Invocation, info: Mapping[str, Any]) -> None:
    for line in ("Client:", f" Version:    {__version__}", "", "Server:"):
        invocation.say(line)
    for title, key, depth in _ROWS:
        value = info.get(key)
        if value is None:
            continue
        indent = " " * (depth + 1)
        if isinstance(value, list):
            invocation.say(f"{indent}{title}:")
            for item in value:
                invocation.say(f"{indent} {str(item).removeprefix('name=')}")
            continue
        invocation.say(f"{indent}{title}: {binary_size(value) if key == 'MemTotal' else value}")
        if key == "Driver":
            for name, text in info.get("DriverStatus") or []:
                invocation.say(f"{indent} {name}: {text}")
    for key, value in info.items():  # what only our engine has: settings and where they come from
        if key not in _SHOWN and key.startswith(("Rootless", "Settings")):
            _show_nested(invocation, key, value, 1)


def _show_nested(invocation: Invocation, title: str, value: object, depth: int) -> None:
    indent = " " * depth
    if isinstance(value, Mapping):
        invocation.say(f"{indent}{title}:")
        for name, inner in value.items():
            _show_nested(invocation, str(name), inner, depth + 1)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping) and "Origin" in value[0]:
        invocation.say(f"{indent}{title}:")
        for setting in value:
            invocation.say(f"{indent} {setting['Name']}: {setting['Value']} ({setting['Origin']})")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        invocation.say(f"{indent}{title}: {', '.join(str(item) for item in value)}")
    else:
        invocation.say(f"{indent}{title}: {value}")
