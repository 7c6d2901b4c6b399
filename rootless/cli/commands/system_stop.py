"""`rootless system stop`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.command import switch
from rootless.cli.engine_state import running_client, wait_until_gone
from rootless.cli.invocation import Invocation
from rootless.client import ConnectionLost


@declare("stop")
@switch("-f", "--force", help="Also where containers run: they are killed")
def command(invocation: Invocation, args: tuple[str, ...], force: bool) -> int:
    """Stop the engine and its launcher"""
    client = running_client(invocation)
    if client is None:
        invocation.complain("the engine does not run")
        return 0
    try:
        client.call("POST", "/rootless/stop", {"force": force})
    except ConnectionLost:
        pass  # it was quick
    return 0 if wait_until_gone(invocation) else 1
