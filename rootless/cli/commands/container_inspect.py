"""`rootless container inspect`."""

from __future__ import annotations

from typing import Any

from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.inspection import inspect
from rootless.cli.invocation import Invocation
from rootless.client.client import segment


@declare("inspect", "CONTAINER [CONTAINER...]", (1, None))
@flag("-f", "--format", default="", help="json, or a template")
@switch("-s", "--size", help="With the sizes of file systems")
def command(invocation: Invocation, args: tuple[str, ...], format: str, size: bool) -> int:
    """Show everything about one or more containers, as JSON"""

    def find(name: str) -> Any:
        return invocation.client.call("GET", f"/containers/{segment(name)}/json", {"size": size})

    return inspect(invocation, args, format, find)
