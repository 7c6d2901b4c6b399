"""`rootless image inspect`."""

from __future__ import annotations

from typing import Any

from rootless.cli.command import command as declare
from rootless.cli.command import flag
from rootless.cli.inspection import inspect
from rootless.cli.invocation import Invocation
from rootless.client.client import image_path


@declare("inspect", "IMAGE [IMAGE...]", (1, None))
@flag("-f", "--format", default="", help="json, or a template")
@flag("--platform", default="", help="The image of this platform")
def command(invocation: Invocation, args: tuple[str, ...], format: str, platform: str) -> int:
    """Show everything about one or more images, as JSON"""

    def find(name: str) -> Any:
        return invocation.client.call("GET", f"/images/{image_path(name)}/json", {"platform": platform})

    return inspect(invocation, args, format, find)
