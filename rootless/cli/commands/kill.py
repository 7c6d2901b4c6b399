"""`rootless kill`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.command import flag
from rootless.cli.invocation import Invocation
from rootless.client.client import segment


@declare("kill", "CONTAINER [CONTAINER...]", (1, None))
@flag("-s", "--signal", default="", help="Signal to send, SIGKILL unless given")
def command(invocation: Invocation, args: tuple[str, ...], signal: str) -> int:
    """Send one or more containers a signal"""

    def kill(name: str) -> None:
        invocation.client.call("POST", f"/containers/{segment(name)}/kill", {"signal": signal})

    return invocation.for_each(args, kill)
