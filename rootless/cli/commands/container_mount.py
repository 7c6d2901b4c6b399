"""`rootless container mount`."""

from __future__ import annotations

from rootless.cli import browsing
from rootless.cli.command import command as declare
from rootless.cli.invocation import Invocation
from rootless.client.client import segment


@declare("mount", "[CONTAINER...]", (0, None))
def command(invocation: Invocation, args: tuple[str, ...]) -> int:
    """Mount one or more containers where you can look inside, read-only; without a name, list what is mounted"""
    return browsing.mount(invocation, "container", args, lambda name: f"/rootless/containers/{segment(name)}")
