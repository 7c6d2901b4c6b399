"""`rootless network ls`."""

from __future__ import annotations

import sys
from datetime import datetime

from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.invocation import Invocation
from rootless.cli.listing import label_method, render
from rootless.cli.types import FILTER, filters
from rootless.cli.units import short_id

HEADERS = {
    "ID": "NETWORK ID",
    "Name": "NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "IPv4": "IPV4",
    "IPv6": "IPV6",
    "Internal": "INTERNAL",
    "Labels": "LABELS",
    "CreatedAt": "CREATED AT",
}
TABLE = "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}"


@declare("ls")
@flag("-f", "--filter", multiple=True, kind=FILTER, help="Only those that fit, e.g. driver=bridge")
@flag("--format", default="", help="table, table TEMPLATE, json, or a template")
@switch("--no-trunc", help="Whole ids")
@switch("-q", "--quiet", help="Ids only")
def command(
    invocation: Invocation,
    args: tuple[str, ...],
    filter: tuple[tuple[str, str], ...],
    format: str,
    no_trunc: bool,
    quiet: bool,
) -> None:
    """List networks"""
    networks = invocation.client.call("GET", "/networks", {"filters": filters(filter)}) or []
    rows = []
    for network in sorted(networks, key=lambda network: str(network["Name"])):
        labels = network.get("Labels") or {}
        rows.append(
            {
                "ID": network["Id"] if no_trunc else short_id(network["Id"]),
                "Name": network["Name"],
                "Driver": network.get("Driver") or "",
                "Scope": network.get("Scope") or "",
                "IPv4": _boolean(network.get("EnableIPv4", True)),
                "IPv6": _boolean(network.get("EnableIPv6")),
                "Internal": _boolean(network.get("Internal")),
                "Labels": ",".join(f"{name}={value}" for name, value in sorted(labels.items())),
                "Label": label_method(labels),
                "CreatedAt": _moment(network.get("Created") or ""),
            }
        )
    sys.stdout.write(render(rows, HEADERS, format, TABLE, "ID" if quiet else ""))


def _boolean(value: object) -> str:
    return "true" if value else "false"


def _moment(text: str) -> str:
    """An RFC 3339 time as Go prints times."""
    try:
        moment = datetime.fromisoformat(text.partition(".")[0].removesuffix("Z") + "+00:00")
    except ValueError:
        return text
    fraction = text.partition(".")[2].rstrip("Z")
    return f"{moment:%Y-%m-%d %H:%M:%S}{'.' + fraction if fraction.isdecimal() else ''} +0000 UTC"
