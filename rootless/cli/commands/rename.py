"""`rootless rename`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.invocation import Invocation
from rootless.client.client import segment
from rootless.model.errors import InvalidParameter


@declare("rename", "CONTAINER NEW_NAME", (2, 2))
def command(invocation: Invocation, args: tuple[str, ...]) -> None:
    """Give a container another name"""
    old, new = (name.strip() for name in args)
    if not old or not new:
        raise InvalidParameter("Error: Neither old nor new names may be empty")
    invocation.client.call("POST", f"/containers/{segment(old)}/rename", {"name": new})
