"""`system df`: the room that images, containers and volumes take, in the API's shape."""

from __future__ import annotations

import os
import time
from typing import Any

import trio

from rootless.engine import shapes
from rootless.engine.engine import Engine
from rootless.images import usage
from rootless.model.errors import RootlessError


async def disk_usage(engine: Engine, kinds: set[str], image_rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The shape of GET /system/df; `kinds` of container, image, volume, build-cache, empty for all."""
    value: dict[str, Any] = {}
    if not kinds or "image" in kinds:
        own = [image for image in engine.images.all() if not image.read_only]
        value |= {"LayersSize": sum(usage.layer_bytes(own).values()), "Images": image_rows}
    if not kinds or "container" in kinds:
        value["Containers"] = await _containers(engine)
    if not kinds or "volume" in kinds:
        value["Volumes"] = await _volumes(engine)
    if not kinds or "build-cache" in kinds:
        value["BuildCache"] = []
    return value


async def _containers(engine: Engine) -> list[dict[str, Any]]:
    now = time.time_ns()
    rows = []
    sizes = {image.id: image.size for image in engine.images.all()}
    for container in sorted(engine.containers.by_id.values(), key=lambda c: c.record.created, reverse=True):
        try:
            written = await engine.files.size(container)
        except RootlessError:
            written = 0
        size = {"SizeRw": written, "SizeRootFs": written + sizes.get(container.record.image_id, 0)}
        rows.append({**shapes.summary(container, now, engine.networks.shown(container)), **size})
    return rows


async def _volumes(engine: Engine) -> list[dict[str, Any]]:
    users: dict[str, int] = {}
    for container in engine.containers.by_id.values():
        for name in {str(mount.get("Name")) for mount in container.record.mounts if mount.get("Name")}:
            users[name] = users.get(name, 0) + 1
    rows = []
    for volume in engine.volumes.all():
        size = await trio.to_thread.run_sync(tree_bytes, volume["Mountpoint"])
        rows.append({**volume, "UsageData": {"Size": size, "RefCount": users.get(volume["Name"], 0)}})
    return rows


def tree_bytes(path: str) -> int:
    """Bytes of the files below; directories closed to us count as nothing. Blocking."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_size
            except OSError:
                continue
    return total
