"""`rootless image mount`."""

from __future__ import annotations

from rootless.cli import browsing
from rootless.cli.command import command as declare
from rootless.cli.invocation import Invocation
from rootless.client.client import image_path


@declare("mount", "[IMAGE...]", (0, None))
def command(invocation: Invocation, args: tuple[str, ...]) -> int:
    """Mount one or more images where you can look inside, read-only; without a name, list what is mounted"""
    return browsing.mount(invocation, "image", args, lambda name: f"/rootless/images/{image_path(name)}")
