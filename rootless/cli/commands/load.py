"""`rootless load`."""

from __future__ import annotations

import os

from rootless.cli.archives import read_chunks
from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.invocation import Invocation
from rootless.cli.output import STDOUT_FD
from rootless.cli.pulling import show_progress
from rootless.model.errors import InvalidParameter


@declare("load")
@flag("-i", "--input", help="Archive to read in place of standard input")
@flag("--platform", default="", help="The image of this platform only")
@switch("-q", "--quiet", help="No progress")
def command(invocation: Invocation, args: tuple[str, ...], input: str | None, platform: str, quiet: bool) -> None:
    """Load images from an archive"""
    if input is None and os.isatty(0):
        raise InvalidParameter("requested load from stdin, but stdin is empty")
    query = {"quiet": quiet or not os.isatty(STDOUT_FD), "platform": platform}
    headers = {"Content-Type": "application/x-tar"}
    response = invocation.client.open("POST", "/images/load", query, body=read_chunks(input), headers=headers)
    show_progress(response.json_lines(), quiet=False, fd=STDOUT_FD)
