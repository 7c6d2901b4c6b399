"""`rootless volume inspect`."""

from __future__ import annotations

from typing import Any

from rootless.cli.command import command as declare
from rootless.cli.command import flag
from rootless.cli.inspection import inspect
from rootless.cli.invocation import Invocation
from rootless.client.client import segment


@declare("inspect", "VOLUME [VOLUME...]", (1, None))
@flag("-f", "--format", default="", help="json, or a template")
def command(invocation: Invocation, args: tuple[str, ...], format: str) -> int:
    """Show everything about one or more volumes, as JSON"""

    def find(name: str) -> Any:
        return invocation.client.call("GET", f"/volumes/{segment(name)}")

    return inspect(invocation, args, format, find)
