"""`rootless system start`."""

from __future__ import annotations

from rootless.cli import storage_options
from rootless.cli.command import command as declare
from rootless.cli.command import flag
from rootless.cli.engine_state import running_client
from rootless.cli.invocation import Invocation
from rootless.model.errors import Conflict


@declare("start")
@flag("--storage-opt", multiple=True, help="additional=DIR: a read-only store below the own one")
def command(invocation: Invocation, args: tuple[str, ...], storage_opt: tuple[str, ...]) -> None:
    """Start the engine, if it does not run; print its socket"""
    if storage_opt and running_client(invocation) is not None:
        raise Conflict("the engine runs already and keeps its options: run `rootless system stop` first")
    storage_options.apply(storage_opt)
    invocation.client.connect().close()
    invocation.say(invocation.client.endpoint.url)
