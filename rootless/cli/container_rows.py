"""A container of GET /containers/json as a row of `ps`, with docker's placeholder names. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rootless.cli.listing import label_method
from rootless.cli.units import ago, ellipsis, human_size, local_time, short_id

HEADERS = {
    "ID": "CONTAINER ID",
    "Names": "NAMES",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "Ports": "PORTS",
    "State": "STATE",
    "Status": "STATUS",
    "Size": "SIZE",
    "Labels": "LABELS",
    "Mounts": "MOUNTS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Networks": "NETWORKS",
    "Platform": "PLATFORM",
}
TABLE = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
TABLE_WITH_SIZE = TABLE + "\t{{.Size}}"
COMMAND_WIDTH = 20
MOUNT_WIDTH = 15


def row(container: Mapping[str, Any], truncate: bool, now_seconds: float) -> dict[str, Any]:
    """One row. `truncate` shortens ids, commands and mounts."""
    labels = container.get("Labels") or {}
    mounts = [mount.get("Name") or mount.get("Source") or "" for mount in container.get("Mounts") or []]
    networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
    command = container.get("Command") or ""
    return {
        "ID": short_id(container["Id"]) if truncate else container["Id"],
        "Names": ",".join(own_names(container.get("Names") or [])),
        "Image": _image(container, truncate),
        "Command": quoted(ellipsis(command, COMMAND_WIDTH) if truncate else command),
        "CreatedAt": local_time(container.get("Created") or 0),
        "RunningFor": ago(container.get("Created") or 0, now_seconds),
        "Ports": ports(container.get("Ports") or []),
        "State": container.get("State") or "",
        "Status": container.get("Status") or "",
        "Size": _size(container),
        "Labels": ",".join(f"{name}={value}" for name, value in sorted(labels.items())),
        "Label": label_method(labels),
        "Mounts": ",".join(ellipsis(mount, MOUNT_WIDTH) if truncate else mount for mount in mounts),
        "LocalVolumes": str(sum(1 for m in container.get("Mounts") or [] if m.get("Driver") == "local")),
        "Networks": ",".join(sorted(networks)),
        "Platform": container.get("Platform"),
    }


def own_names(names: Sequence[str]) -> list[str]:
    """Names without their slash, and without those that links of other containers gave."""
    return [name.removeprefix("/") for name in names if "/" not in name.removeprefix("/")]


def quoted(text: str) -> str:
    """In double quotes, as Go's strconv.Quote."""
    return json.dumps(text, ensure_ascii=False).replace("\\u00", "\\x")


def ports(rows: Sequence[Mapping[str, Any]]) -> str:
    """ "0.0.0.0:8080->80/tcp, 443/tcp": neighbours with the same number inside and outside become a range."""
    ranges: list[tuple[str, str, int, int]] = []  # address, protocol, first, last
    mapped: list[str] = []
    ordered = sorted(
        rows,
        key=lambda p: (p["PrivatePort"], p.get("IP") or "", p.get("PublicPort") or 0, p.get("Type") or "tcp"),
    )
    for port in ordered:
        address, protocol, inside = port.get("IP") or "", port.get("Type") or "tcp", port["PrivatePort"]
        if address and port.get("PublicPort") != inside:
            mapped.append(f"{_host(address)}:{port.get('PublicPort')}->{inside}/{protocol}")
            continue
        for at, (range_address, range_protocol, first, last) in enumerate(ranges):
            if (range_address, range_protocol, last) == (address, protocol, inside - 1):
                ranges[at] = (address, protocol, first, inside)
                break
        else:
            ranges.append((address, protocol, inside, inside))
    shown = []
    for address, protocol, first, last in ranges:
        numbers = str(first) if first == last else f"{first}-{last}"
        shown.append(f"{_host(address)}:{numbers}->{numbers}/{protocol}" if address else f"{numbers}/{protocol}")
    return ", ".join(shown + mapped)


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _image(container: Mapping[str, Any], truncate: bool) -> str:
    image = container.get("Image") or ""
    if not image:
        return "<no image>"
    if truncate and (image.startswith("sha256:") or image == container.get("ImageID", "").partition(":")[2]):
        return short_id(image)
    if truncate:
        name = str(image).partition("@")[0]
        return name.removeprefix("docker.io/library/").removeprefix("docker.io/")
    return str(image)


def _size(container: Mapping[str, Any]) -> str:
    written, virtual = container.get("SizeRw") or 0, container.get("SizeRootFs") or 0
    text = human_size(written)
    return f"{text} (virtual {human_size(virtual)})" if virtual > 0 else text
