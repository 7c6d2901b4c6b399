"""`rootless wait`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.interactive import status
from rootless.cli.invocation import Invocation
from rootless.client.client import segment


@declare("wait", "CONTAINER [CONTAINER...]", (1, None))
def command(invocation: Invocation, args: tuple[str, ...]) -> int:
    """Wait until one or more containers end, print their exit codes"""

    def wait(name: str) -> str:
        return str(status(invocation.client.call("POST", f"/containers/{segment(name)}/wait")))

    return invocation.for_each(args, wait)
