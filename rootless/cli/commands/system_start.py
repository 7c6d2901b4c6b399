"""`rootless system start`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.invocation import Invocation


@declare("start")
def command(invocation: Invocation, args: tuple[str, ...]) -> None:
    """Start the engine, if it does not run; print its socket"""
    invocation.client.connect().close()
    invocation.say(invocation.client.endpoint.url)
