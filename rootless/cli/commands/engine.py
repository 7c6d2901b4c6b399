"""`rootless engine`: the engine in the foreground."""

from __future__ import annotations

from rootless.cli import storage_options
from rootless.cli.command import command as declare
from rootless.cli.command import flag
from rootless.cli.invocation import Invocation


@declare("engine")
@flag("--storage-opt", multiple=True, help="additional=DIR: a read-only store below the own one")
def command(invocation: Invocation, args: tuple[str, ...], storage_opt: tuple[str, ...]) -> int:
    """Run the engine in the foreground, until it is stopped or idle"""
    from rootless.engine.__main__ import main

    storage_options.apply(storage_opt)
    return main()
