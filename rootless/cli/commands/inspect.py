"""`rootless inspect`: anything that has the name, or only the kind asked for."""

from __future__ import annotations

from typing import Any

from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.inspection import inspect
from rootless.cli.invocation import Invocation
from rootless.client import ApiError
from rootless.client.client import image_path, segment
from rootless.model.errors import InvalidParameter, NotFound

KINDS = {
    "container": lambda name: f"/containers/{segment(name)}/json",
    "image": lambda name: f"/images/{image_path(name)}/json",
    "network": lambda name: f"/networks/{segment(name)}",
    "volume": lambda name: f"/volumes/{segment(name)}",
}


@declare("inspect", "NAME|ID [NAME|ID...]", (1, None))
@flag("-f", "--format", default="", help="json, or a template")
@switch("-s", "--size", help="With the sizes of containers' file systems")
@flag("--type", default="", help="Only this kind: container, image, network, volume")
def command(invocation: Invocation, args: tuple[str, ...], format: str, size: bool, type: str) -> int:
    """Show everything about containers, images, volumes or networks, as JSON"""
    if type and type not in KINDS:
        raise InvalidParameter(f'"{type}" is not a valid value for --type')

    def find(name: str) -> Any:
        for kind in [type] if type else list(KINDS):
            query = {"size": True} if size and kind == "container" else None
            try:
                return invocation.client.call("GET", KINDS[kind](name), query)
            except ApiError as error:
                if error.status not in (400, 404, 501):
                    raise
        raise NotFound(f"No such {type or 'object'}: {name}")

    return inspect(invocation, args, format, find, prefix="Error: ")
