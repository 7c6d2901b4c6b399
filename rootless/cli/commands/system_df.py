"""`rootless system df`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from rootless.cli import image_rows
from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.invocation import Invocation
from rootless.cli.listing import render
from rootless.cli.units import ago, ellipsis, human_size

HEADERS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}
TABLE = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}"
IMAGES = (
    "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.VirtualSize}}\t{{.SharedSize}}\t{{.UniqueSize}}\t"
    "{{.Containers}}"
)
CONTAINERS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "LocalVolumes": "LOCAL VOLUMES",
    "Size": "SIZE",
    "RunningFor": "CREATED",
    "Status": "STATUS",
    "Names": "NAMES",
}
VOLUMES = {"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}


@declare("df")
@flag("--format", default="", help="table, table TEMPLATE, json, or a template")
@switch("-v", "--verbose", help="Each image, container and volume")
def command(invocation: Invocation, args: tuple[str, ...], format: str, verbose: bool) -> None:
    """Show the room that images, containers and volumes take"""
    usage = invocation.client.call("GET", "/system/df")
    if verbose and not format:
        sys.stdout.write(_verbose(usage))
        return
    rows = [_images(usage), _containers(usage), _volumes(usage), _row("Build Cache", [], [], 0, 0)]
    sys.stdout.write(render(rows, HEADERS, format, TABLE, ""))


def _row(kind: str, every: list[Any], active: list[Any], size: int, reclaimable: int) -> dict[str, Any]:
    share = f" ({reclaimable * 100 // size}%)" if size else ""
    return {
        "Type": kind,
        "TotalCount": str(len(every)),
        "Active": str(len(active)),
        "Size": human_size(size),
        "Reclaimable": human_size(reclaimable) + share,
    }


def _images(usage: Mapping[str, Any]) -> dict[str, Any]:
    images = usage.get("Images") or []
    active = [image for image in images if image["Containers"] > 0]
    size = int(usage.get("LayersSize") or 0)
    used = sum(image["Size"] - image["SharedSize"] for image in active if image["SharedSize"] >= 0)
    return _row("Images", images, active, size, max(0, size - used))


def _containers(usage: Mapping[str, Any]) -> dict[str, Any]:
    containers = usage.get("Containers") or []
    active = [one for one in containers if one["State"] in ("running", "paused", "restarting")]
    size = sum(one.get("SizeRw", 0) for one in containers)
    return _row("Containers", containers, active, size, size - sum(one.get("SizeRw", 0) for one in active))


def _volumes(usage: Mapping[str, Any]) -> dict[str, Any]:
    volumes = usage.get("Volumes") or []
    active = [volume for volume in volumes if volume["UsageData"]["RefCount"] > 0]
    size = sum(volume["UsageData"]["Size"] for volume in volumes)
    used = sum(volume["UsageData"]["Size"] for volume in active)
    return _row("Local Volumes", volumes, active, size, size - used)


def _verbose(usage: Mapping[str, Any]) -> str:
    now = time.time()
    images = [row for image in usage.get("Images") or [] for row in image_rows.rows(image, True, False, now)]
    headers = {**image_rows.HEADERS, "VirtualSize": "SIZE"}
    containers = [
        {
            "ID": one["Id"][:12],
            "Image": one["Image"],
            "Command": f'"{ellipsis(one["Command"], 20)}"',
            "LocalVolumes": str(sum(mount["Type"] == "volume" for mount in one["Mounts"])),
            "Size": human_size(one.get("SizeRw", 0)),
            "RunningFor": ago(int(one["Created"]), now),
            "Status": one["Status"],
            "Names": ",".join(name.removeprefix("/") for name in one["Names"]),
        }
        for one in usage.get("Containers") or []
    ]
    volumes = [
        {
            "Name": volume["Name"],
            "Links": str(volume["UsageData"]["RefCount"]),
            "Size": human_size(volume["UsageData"]["Size"]),
        }
        for volume in usage.get("Volumes") or []
    ]
    parts = [
        ("Images space usage:", render(images, headers, "", IMAGES, "")),
        ("Containers space usage:", render(containers, CONTAINERS, "", _columns(CONTAINERS), "")),
        ("Local Volumes space usage:", render(volumes, VOLUMES, "", _columns(VOLUMES), "")),
    ]
    return "\n".join(f"{title}\n\n{table}" for title, table in parts) + f"\nBuild cache usage: {human_size(0)}\n"


def _columns(headers: Mapping[str, str]) -> str:
    return "\t".join(f"{{{{.{name}}}}}" for name in headers)
