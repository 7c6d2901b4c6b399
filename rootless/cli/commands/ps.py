"""`rootless ps`."""

from __future__ import annotations

import sys
import time

from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.container_rows import HEADERS, TABLE, TABLE_WITH_SIZE, row
from rootless.cli.invocation import Invocation
from rootless.cli.listing import render
from rootless.cli.types import FILTER, INTEGER, filters


@declare("ps", "")
@switch("-a", "--all", help="Those that do not run as well")
@flag("-f", "--filter", multiple=True, kind=FILTER, help="Only those that fit, e.g. name=web, status=exited")
@flag("--format", default="", help="table, table TEMPLATE, json, or a template")
@flag("-n", "--last", kind=INTEGER, default=-1, help="The last N made, in any state")
@switch("-l", "--latest", help="The last one made, in any state")
@switch("--no-trunc", help="Whole ids, commands and mounts")
@switch("-q", "--quiet", help="Ids only")
@switch("-s", "--size", help="With the sizes of file systems")
def command(
    invocation: Invocation,
    args: tuple[str, ...],
    all: bool,
    filter: tuple[tuple[str, str], ...],
    format: str,
    last: int,
    latest: bool,
    no_trunc: bool,
    quiet: bool,
    size: bool,
) -> None:
    """List containers"""
    wants_size = size or (".Size" in format and not quiet)
    query = {
        "all": all,
        "limit": 1 if latest and last < 0 else (last if last > 0 else None),
        "size": wants_size,
        "filters": filters(filter),
    }
    containers = invocation.client.call("GET", "/containers/json", query)
    rows = [row(container, not no_trunc, time.time()) for container in containers]
    table = TABLE_WITH_SIZE if size else TABLE
    sys.stdout.write(render(rows, HEADERS, format, table, "ID" if quiet else ""))
