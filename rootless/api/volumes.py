"""/volumes."""

from __future__ import annotations

import secrets

from rootless.api import filters as filters_module
from rootless.api.http import Request, Response, json_response
from rootless.engine.engine import Engine
from rootless.model.errors import InvalidParameter

_FILTERS = ("dangling", "driver", "label", "name")


def _used(engine: Engine) -> dict[str, str]:
    """Volume name -> id of a container that has it."""
    return {
        str(mount["Name"]): container.id
        for container in engine.containers.by_id.values()
        for mount in container.record.mounts
        if mount.get("Name")
    }


async def list_volumes(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    wanted = filters_module.parse(request.query.get("filters", ""), _FILTERS)
    used = _used(engine)
    dangling = filters_module.boolean(wanted, "dangling")
    rows = []
    for volume in engine.volumes.all():
        if dangling is not None and dangling == (volume["Name"] in used):
            continue
        if "name" in wanted and not any(value in volume["Name"] for value in wanted["name"]):
            continue
        if "label" in wanted and not filters_module.labels_match(wanted["label"], volume["Labels"] or {}):
            continue
        rows.append(volume)
    return json_response({"Volumes": rows, "Warnings": None})


async def create(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    body = await request.json()
    driver, labels = str(body.get("Driver") or "local"), body.get("Labels") or {}
    if driver != "local":
        raise InvalidParameter(f'error looking up volume plugin {driver}: plugin "{driver}" not found')
    if not isinstance(labels, dict):
        raise InvalidParameter("Labels must be an object")
    name = str(body.get("Name") or "")
    made = engine.volumes.create(name or secrets.token_hex(32), labels, anonymous=not name)
    engine.events.emit("volume", "create", made["Name"], {"driver": "local"})
    return json_response(made, 201)


async def inspect(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    return json_response(engine.volumes.inspect(parameters["name"]))


async def remove(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    engine.volumes.remove(parameters["name"], _used(engine), request.flag("force"))
    engine.events.emit("volume", "destroy", parameters["name"], {"driver": "local"})
    await engine.containers.empty_trash()
    return Response(204)


async def prune(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    wanted = filters_module.parse(request.query.get("filters", ""), ("label", "all"))
    used = _used(engine)
    removed = []
    for volume in engine.volumes.all():
        anonymous = "com.docker.volume.anonymous" in (volume["Labels"] or {})
        if volume["Name"] not in used and (anonymous or filters_module.boolean(wanted, "all")):
            engine.volumes.remove(volume["Name"], used)
            removed.append(volume["Name"])
    await engine.containers.empty_trash()
    return json_response({"VolumesDeleted": removed, "SpaceReclaimed": 0})


ROUTES = [
    ("GET", "/volumes", list_volumes),
    ("POST", "/volumes/create", create),
    ("POST", "/volumes/prune", prune),
    ("GET", "/volumes/{name}", inspect),
    ("DELETE", "/volumes/{name}", remove),
]
