"""`rootless unpause`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.invocation import Invocation
from rootless.client.client import segment


@declare("unpause", "CONTAINER [CONTAINER...]", (1, None))
def command(invocation: Invocation, args: tuple[str, ...]) -> int:
    """Let one or more frozen containers go on"""

    def act(name: str) -> None:
        invocation.client.call("POST", f"/containers/{segment(name)}/unpause")

    return invocation.for_each(args, act)
