"""`rootless history`."""

from __future__ import annotations

import sys
import time

from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.invocation import Invocation
from rootless.cli.listing import render
from rootless.cli.units import ago, ellipsis, human_size, local_time, short_id
from rootless.client.client import image_path

HEADERS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}
TABLE = "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
WIDTH = 45


@declare("history", "IMAGE", (1, 1))
@flag("--format", default="", help="table, table TEMPLATE, json, or a template")
@switch("-H", "--human", default=True, help="Sizes and times for people")
@switch("--no-trunc", help="Whole ids and commands")
@flag("--platform", default="", help="The image of this platform")
@switch("-q", "--quiet", help="Ids only")
def command(
    invocation: Invocation,
    args: tuple[str, ...],
    format: str,
    human: bool,
    no_trunc: bool,
    platform: str,
    quiet: bool,
) -> None:
    """Show how an image was made"""
    steps = invocation.client.call("GET", f"/images/{image_path(args[0])}/history", {"platform": platform})
    rows = []
    for step in steps:
        created, size = int(step.get("Created") or 0), int(step.get("Size") or 0)
        identity, by = step.get("Id") or "<missing>", (step.get("CreatedBy") or "").replace("\t", " ")
        rows.append(
            {
                "ID": identity if no_trunc or identity == "<missing>" else short_id(identity),
                "CreatedSince": ago(created, time.time()) if human else local_time(created),
                "CreatedAt": local_time(created),
                "CreatedBy": by if no_trunc else ellipsis(by, WIDTH),
                "Size": human_size(size) if human else str(size),
                "Comment": step.get("Comment") or "",
            }
        )
    sys.stdout.write(render(rows, HEADERS, format, TABLE, "ID" if quiet else ""))
