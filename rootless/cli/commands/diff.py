"""`rootless diff`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.invocation import Invocation
from rootless.client.client import segment

_KINDS = {0: "C", 1: "A", 2: "D"}  # ChangeType of the API


@declare("diff", "CONTAINER", (1, 1))
def command(invocation: Invocation, args: tuple[str, ...]) -> None:
    """Show what a container changed in its file system: A added, C changed, D deleted"""
    for change in invocation.client.call("GET", f"/containers/{segment(args[0])}/changes") or []:
        invocation.say(f"{_KINDS.get(change['Kind'], '?')} {change['Path']}")
