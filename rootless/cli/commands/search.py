"""`rootless search`."""

from __future__ import annotations

import sys

from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.invocation import Invocation
from rootless.cli.listing import render
from rootless.cli.registry_access import registry_header
from rootless.cli.types import FILTER, filters
from rootless.cli.units import ellipsis

_HEADERS = {"Name": "NAME", "Description": "DESCRIPTION", "StarCount": "STARS", "IsOfficial": "OFFICIAL"}
_TABLE = "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}"


@declare("search", "TERM", (1, 1))
@flag("-f", "--filter", multiple=True, kind=FILTER, help="Only those that fit, e.g. stars=3, is-official=true")
@flag("--format", default="", help="table TEMPLATE, json, or a template")
@flag("--limit", default="25", help="At most so many, 1 to 100")
@switch("--no-trunc", help="Whole descriptions")
def command(
    invocation: Invocation,
    args: tuple[str, ...],
    filter: tuple[tuple[str, str], ...],
    format: str,
    limit: str,
    no_trunc: bool,
) -> None:
    """Search Docker Hub, or the catalogue of a registry (TERM is HOST[:PORT]/[WORD])"""
    host, slash, _ = args[0].partition("/")
    registry = host if slash and ("." in host or ":" in host or host == "localhost") else "docker.io"
    headers = registry_header(invocation, registry)
    query = {"term": args[0], "limit": limit, "filters": filters(filter)}
    found = invocation.client.call("GET", "/images/search", query, headers=headers)
    rows = [
        {
            "Name": row["name"],
            "Description": _line(row["description"]) if no_trunc else ellipsis(_line(row["description"]), 45),
            "StarCount": str(row["star_count"]),
            "IsOfficial": "[OK]" if row["is_official"] else "",
            "IsAutomated": "",
        }
        for row in found
    ]
    sys.stdout.write(render(rows, _HEADERS, format, _TABLE, ""))


def _line(text: str) -> str:
    return " ".join(text.split())
