"""`rootless pause`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.invocation import Invocation
from rootless.client.client import segment


@declare("pause", "CONTAINER [CONTAINER...]", (1, None))
def command(invocation: Invocation, args: tuple[str, ...]) -> int:
    """Freeze all processes of one or more containers"""

    def act(name: str) -> None:
        invocation.client.call("POST", f"/containers/{segment(name)}/pause")

    return invocation.for_each(args, act)
