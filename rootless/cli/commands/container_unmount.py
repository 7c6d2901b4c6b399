"""`rootless container unmount`."""

from __future__ import annotations

from rootless.cli import browsing
from rootless.cli.command import command as declare
from rootless.cli.command import switch
from rootless.cli.invocation import Invocation
from rootless.client.client import segment


@declare("unmount", "CONTAINER [CONTAINER...]", (1, None))
@switch("-f", "--force", help="Even while somebody uses it")
def command(invocation: Invocation, args: tuple[str, ...], force: bool) -> int:
    """Unmount what `container mount` has mounted"""
    return browsing.unmount(invocation, args, lambda name: f"/rootless/containers/{segment(name)}", force)
