"""`rootless network inspect`."""

from __future__ import annotations

from typing import Any

from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.inspection import inspect
from rootless.cli.invocation import Invocation
from rootless.client.client import segment


@declare("inspect", "NETWORK [NETWORK...]", (1, None))
@flag("-f", "--format", default="", help="json, or a template")
@switch("-v", "--verbose", help="More, where the engine has more")
def command(invocation: Invocation, args: tuple[str, ...], format: str, verbose: bool) -> int:
    """Show everything about one or more networks, as JSON"""

    def find(name: str) -> Any:
        return invocation.client.call("GET", f"/networks/{segment(name)}", {"verbose": verbose})

    return inspect(invocation, args, format, find)
