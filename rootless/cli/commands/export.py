"""`rootless export`."""

from __future__ import annotations

from rootless.cli.archives import write_archive
from rootless.cli.command import command as declare
from rootless.cli.command import flag
from rootless.cli.invocation import Invocation
from rootless.client.client import segment


@declare("export", "CONTAINER", (1, 1))
@flag("-o", "--output", help="File to write in place of standard output")
def command(invocation: Invocation, args: tuple[str, ...], output: str | None) -> None:
    """Write a container's file system as a tar archive"""
    response = invocation.client.open("GET", f"/containers/{segment(args[0])}/export")
    write_archive(response.chunks(), output, "export")
