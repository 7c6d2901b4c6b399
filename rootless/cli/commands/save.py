"""`rootless save`."""

from __future__ import annotations

from rootless.cli.archives import write_archive
from rootless.cli.command import command as declare
from rootless.cli.command import flag
from rootless.cli.invocation import Invocation


@declare("save", "IMAGE [IMAGE...]", (1, None))
@flag("--format", default="docker", help="docker (which is an OCI layout as well), or oci")
@flag("-o", "--output", help="File to write in place of standard output")
@flag("--platform", default="", help="The image of this platform only")
def command(invocation: Invocation, args: tuple[str, ...], format: str, output: str | None, platform: str) -> None:
    """Write one or more images to an archive"""
    query = {"names": list(args), "format": format.removesuffix("-archive"), "platform": platform}
    response = invocation.client.open("GET", "/images/get", query)
    write_archive(response.chunks(), output, "save")
