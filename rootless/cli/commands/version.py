"""`rootless version`."""

from __future__ import annotations

import os
import platform
from typing import Any

from rootless import __version__
from rootless.cli.command import command as declare
from rootless.cli.command import flag
from rootless.cli.invocation import Invocation, error_text
from rootless.cli.listing import executed, go_json, parsed
from rootless.model.errors import RootlessError

API_VERSION = "1.47"


@declare("version")
@flag("-f", "--format", default="", help="json, or a template")
def command(invocation: Invocation, args: tuple[str, ...], format: str) -> int:
    """Show the versions of command line and engine"""
    template = parsed(format) if format not in ("", "json") else None
    machine = os.uname()
    shown: dict[str, Any] = {
        "Client": {
            "Platform": {"Name": ""},
            "Version": __version__,
            "ApiVersion": API_VERSION,
            "APIVersion": API_VERSION,
            "DefaultAPIVersion": API_VERSION,
            "PythonVersion": platform.python_version(),
            "Os": "linux",
            "Arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(machine.machine, machine.machine),
            "KernelVersion": machine.release,
            "Context": "default",
        },
        "Server": None,
    }
    failure: RootlessError | None = None
    try:
        server = invocation.client.call("GET", "/version")
        shown["Server"] = {**server, "APIVersion": server.get("ApiVersion")}
    except RootlessError as error:
        failure = error
    if template is not None:
        invocation.say(executed(template, shown))
    elif format == "json":
        invocation.say(go_json(shown))
    else:
        _show(invocation, shown)
    if failure is not None:
        invocation.complain(error_text(failure))
    return 1 if failure else 0


def _show(invocation: Invocation, shown: dict[str, Any]) -> None:
    client, server = shown["Client"], shown["Server"]
    invocation.say("Client:")
    _rows(
        invocation,
        1,
        {
            "Version": client["Version"],
            "API version": client["ApiVersion"],
            "Python version": client["PythonVersion"],
            "OS/Arch": f"{client['Os']}/{client['Arch']}",
            "Context": client["Context"],
        },
    )
    if server is None:
        return
    invocation.say("")
    invocation.say("Server:")
    for component in server.get("Components") or [{**server, "Name": "Engine", "Details": {}}]:
        details = component.get("Details") or {}
        invocation.say(f" {component['Name']}:")
        rows = {"Version": component.get("Version")}
        if component["Name"] == "Engine":
            rows |= {
                "API version": f"{server.get('ApiVersion')} (minimum version {server.get('MinAPIVersion')})",
                "OS/Arch": f"{server.get('Os')}/{server.get('Arch')}",
                "Kernel version": server.get("KernelVersion"),
            }
        else:
            rows |= details
        _rows(invocation, 2, rows)


def _rows(invocation: Invocation, indent: int, rows: dict[str, Any]) -> None:
    for name, value in rows.items():
        invocation.say(f"{' ' * indent}{name + ':':<18} {value}")
