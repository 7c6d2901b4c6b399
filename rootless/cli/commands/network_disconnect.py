"""`rootless network disconnect`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.command import switch
from rootless.cli.invocation import Invocation
from rootless.client.client import segment


@declare("disconnect", "NETWORK CONTAINER", (2, 2))
@switch("-f", "--force", help="Also where the container does not answer")
def command(invocation: Invocation, args: tuple[str, ...], force: bool) -> None:
    """Take a container off a network"""
    body = {"Container": args[1], "Force": force}
    invocation.client.call("POST", f"/networks/{segment(args[0])}/disconnect", value=body)
