"""`rootless volume ls`."""

from __future__ import annotations

import sys

from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.invocation import Invocation
from rootless.cli.listing import label_method, render
from rootless.cli.types import FILTER, filters

HEADERS = {
    "Driver": "DRIVER",
    "Name": "VOLUME NAME",
    "Scope": "SCOPE",
    "Mountpoint": "MOUNTPOINT",
    "Labels": "LABELS",
    "Links": "LINKS",
    "Size": "SIZE",
    "Availability": "AVAILABILITY",
    "Group": "GROUP",
    "Status": "STATUS",
}
TABLE = "{{.Driver}}\t{{.Name}}"


@declare("ls")
@switch("--cluster", hidden=True, help="No effect here")
@flag("-f", "--filter", multiple=True, kind=FILTER, help="Only those that fit, e.g. dangling=true")
@flag("--format", default="", help="table, table TEMPLATE, json, or a template")
@switch("-q", "--quiet", help="Names only")
def command(
    invocation: Invocation,
    args: tuple[str, ...],
    cluster: bool,
    filter: tuple[tuple[str, str], ...],
    format: str,
    quiet: bool,
) -> None:
    """List volumes"""
    volumes = invocation.client.call("GET", "/volumes", {"filters": filters(filter)})["Volumes"] or []
    rows = []
    for volume in sorted(volumes, key=lambda volume: str(volume["Name"])):
        labels = volume.get("Labels") or {}
        rows.append(
            {
                **dict.fromkeys(HEADERS, "N/A"),
                **{name: volume.get(name) or "" for name in ("Driver", "Name", "Scope", "Mountpoint")},
                "Labels": ",".join(f"{name}={value}" for name, value in sorted(labels.items())),
                "Label": label_method(labels),
            }
        )
    sys.stdout.write(render(rows, HEADERS, format, TABLE, "Name" if quiet else ""))
