"""`rootless top`."""

from __future__ import annotations

import sys

from rootless.cli.command import command as declare
from rootless.cli.invocation import Invocation
from rootless.cli.listing import align
from rootless.client.client import segment


@declare("top", "CONTAINER [ps OPTIONS]", (1, None), interspersed=False)
def command(invocation: Invocation, args: tuple[str, ...]) -> None:
    """Show the processes of a container"""
    query = {"ps_args": " ".join(args[1:])}
    found = invocation.client.call("GET", f"/containers/{segment(args[0])}/top", query)
    rows = [found["Titles"], *(found.get("Processes") or [])]
    sys.stdout.write(align("\t".join(row) for row in rows))
