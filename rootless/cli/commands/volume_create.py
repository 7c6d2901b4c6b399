"""`rootless volume create`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.command import flag
from rootless.cli.env_files import mapping
from rootless.cli.invocation import Invocation


@declare("create", "[VOLUME]", (0, 1))
@flag("-d", "--driver", default="local", help="Driver that keeps it")
@flag("--label", multiple=True, help="Label, name=value")
@flag("--name", hidden=True, help="Its name: as the word")
@flag("-o", "--opt", multiple=True, help="Option of the driver, name=value")
def command(
    invocation: Invocation,
    args: tuple[str, ...],
    driver: str,
    label: tuple[str, ...],
    name: str | None,
    opt: tuple[str, ...],
) -> None:
    """Make a volume"""
    body = {
        "Name": args[0] if args else name or "",
        "Driver": driver,
        "DriverOpts": mapping(opt),
        "Labels": mapping(label),
    }
    invocation.say(invocation.client.call("POST", "/volumes/create", value=body)["Name"])
