"""`rootless engine`: the engine in the foreground."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.invocation import Invocation


@declare("engine")
def command(invocation: Invocation, args: tuple[str, ...]) -> int:
    """Run the engine in the foreground, until it is stopped or idle"""
    from rootless.engine.__main__ import main

    return main()
