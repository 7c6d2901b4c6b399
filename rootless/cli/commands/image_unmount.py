"""`rootless image unmount`."""

from __future__ import annotations

from rootless.cli import browsing
from rootless.cli.command import command as declare
from rootless.cli.command import switch
from rootless.cli.invocation import Invocation
from rootless.client.client import image_path


@declare("unmount", "IMAGE [IMAGE...]", (1, None))
@switch("-f", "--force", help="Even while somebody uses it")
def command(invocation: Invocation, args: tuple[str, ...], force: bool) -> int:
    """Unmount what `image mount` has mounted"""
    return browsing.unmount(invocation, args, lambda name: f"/rootless/images/{image_path(name)}", force)
