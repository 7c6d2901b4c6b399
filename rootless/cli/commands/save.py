"""`rootless save`."""

from __future__ import annotations

from rootless.cli.archives import write_archive
from rootless.cli.command import command as declare
from rootless.cli.command import flag
from rootless.cli.invocation import Invocation


@declare("save", "IMAGE [IMAGE...]", (1, None))
@flag("-o", "--output", help="File to write in place of standard output")
@flag("--platform", default="", help="The image of this platform only")
def command(invocation: Invocation, args: tuple[str, ...], output: str | None, platform: str) -> None:
    """Write one or more images to an archive"""
    response = invocation.client.open("GET", "/images/get", {"names": list(args), "platform": platform})
    write_archive(response.chunks(), output, "save")
