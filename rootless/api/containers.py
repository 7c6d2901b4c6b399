"""/containers: everything but the streams (see `streams`)."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

import trio

from rootless.api import filters as filters_module
from rootless.api.http import Request, Response, StreamResponse, json_response
from rootless.api.images import asked_platform
from rootless.engine import shapes
from rootless.engine.container import Container
from rootless.engine.engine import Engine
from rootless.model import states
from rootless.model.errors import Conflict, InvalidParameter, NotFound, RootlessError

_FILTERS = (
    "ancestor before expose exited health id is-task label name network publish since status volume isolation".split()
)


async def create(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    body = await request.json()
    name, platform = request.query.get("name", ""), asked_platform(request)
    container_id, warnings = await engine.containers.create(body, name, platform)
    return json_response({"Id": container_id, "Warnings": warnings}, 201)


async def start(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    await engine.containers.start(engine.containers.find(parameters["id"]))
    return Response(204)


async def stop(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    container = engine.containers.find(parameters["id"])
    await engine.containers.stopping.stop(container, _seconds(request), request.query.get("signal", ""))
    return Response(204)


async def restart(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    container = engine.containers.find(parameters["id"])
    await engine.containers.restart(container, _seconds(request), request.query.get("signal", ""))
    return Response(204)


async def kill(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    container = engine.containers.find(parameters["id"])
    await engine.containers.stopping.kill(container, request.query.get("signal", ""))
    return Response(204)


async def rename(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    await engine.containers.rename(engine.containers.find(parameters["id"]), request.query.get("name", ""))
    return Response(204)


async def remove(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    container = engine.containers.find(parameters["id"])
    await engine.containers.remove(container, force=request.flag("force"), volumes=request.flag("v"))
    return Response(204)


async def wait(engine: Engine, request: Request, parameters: dict[str, str]) -> StreamResponse:
    condition = request.query.get("condition") or "not-running"
    container = engine.containers.find(parameters["id"])
    if condition not in ("not-running", "next-exit", "removed"):
        raise InvalidParameter(f'invalid condition: "{condition}"')
    return StreamResponse(_wait(container, condition), headers={"Content-Type": "application/json"})


async def _wait(container: Container, condition: str) -> AsyncGenerator[bytes, None]:
    """The headers are out before the end: docker's client starts the container once it has them."""
    event = {
        "not-running": container.finished if container.running else None,
        "next-exit": container.next_exit,
        "removed": container.removed,
    }[condition]
    if event is not None:
        await event.wait()
    yield json_response({"StatusCode": container.state.exit_code}).body


async def inspect(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    container = engine.containers.find(parameters["id"])
    directory = engine.containers.records.directory(container.id)
    execs = [e for e in container.execs if engine.execs.by_id[e].running]
    driver = container.state.driver or await engine.storage.driver(container.record)
    value = shapes.inspect(container, directory, driver, engine.networks.shown(container), execs)
    if request.flag("size"):
        value |= await _sizes(engine, container)
    return json_response(value)


async def list_containers(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    wanted = filters_module.parse(request.query.get("filters", ""), _FILTERS)
    limit = request.number("limit", 0)
    every = request.flag("all") or limit > 0 or "status" in wanted or "exited" in wanted
    now = time.time_ns()
    rows = []
    for container in sorted(engine.containers.by_id.values(), key=lambda c: c.record.created, reverse=True):
        if (every or container.running) and _matches(engine, container, wanted):
            row = shapes.summary(container, now, engine.networks.shown(container))
            if request.flag("size"):
                row |= await _sizes(engine, container)
            rows.append(row)
    return json_response(rows[:limit] if limit > 0 else rows)


def _matches(engine: Engine, container: Container, wanted: filters_module.Filters) -> bool:
    return all(_holds(engine, container, name, values) for name, values in wanted.items())


def _holds(engine: Engine, container: Container, name: str, values: list[str]) -> bool:
    import re

    record, state = container.record, container.state
    match name:
        case "id":
            return any(record.id.startswith(value) for value in values)
        case "name":
            try:
                return any(re.search(value.removeprefix("/"), record.name) for value in values)
            except re.error as error:
                raise InvalidParameter(f"invalid filter 'name={values}': {error}") from None
        case "label":
            return filters_module.labels_match(values, record.config["Labels"])
        case "status":
            known = (states.CREATED, states.RUNNING, states.EXITED, states.DEAD, "paused", "restarting", "removing")
            for value in values:
                if value not in known:
                    raise InvalidParameter(f"invalid filter 'status={value}'")
            return state.status in values
        case "exited":
            return state.status == states.EXITED and str(state.exit_code) in values
        case "ancestor":
            return any(_is_ancestor(engine, container, value) for value in values)
        case "before" | "since":
            other = engine.containers.find(values[0]).record.created
            return record.created < other if name == "before" else record.created > other
        case "volume":
            keys = {m["Destination"] for m in record.mounts} | {m.get("Name", m["Source"]) for m in record.mounts}
            return bool(keys & set(values))
        case "network":
            shown = engine.networks.shown(container)
            return any(
                value == name or (value and str(row["NetworkID"]).startswith(value))
                for value in values
                for name, row in shown.items()
            )
        case "publish" | "expose":
            numbers = {str(row[0]) for row in state.ports} | {f"{row[0]}/{row[1]}" for row in state.ports}
            if name == "expose":
                numbers |= set(record.config.get("ExposedPorts") or {})
            return bool(numbers & set(values))
        case "health":
            return "none" in values
    return True


def _is_ancestor(engine: Engine, container: Container, value: str) -> bool:
    if value in (container.record.image, container.record.image_id):
        return True
    try:
        return engine.images.resolve(value).id == container.record.image_id
    except (NotFound, InvalidParameter):
        return False


async def _sizes(engine: Engine, container: Container) -> dict[str, int]:
    try:
        changed = await engine.files.size(container)
    except RootlessError:
        changed = 0
    try:
        image = engine.images.resolve(container.record.image_id).size
    except NotFound:
        image = 0
    return {"SizeRw": changed, "SizeRootFs": changed + image}


async def top(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    container = engine.containers.find(parameters["id"])
    if not container.running:
        raise Conflict(f"container {container.id} is not running")
    rows = await trio.to_thread.run_sync(_processes, container.state.pid)
    return json_response({"Titles": ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"], "Processes": rows})


def _processes(first: int) -> list[list[str]]:
    """Those in the pid namespace of `first`, by what /proc says of them. Of docker's --init, which nobody may look at,
    its child tells where it is."""
    import os
    from pathlib import Path

    try:
        namespace = os.readlink(f"/proc/{first}/ns/pid")
    except PermissionError:
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        namespace = os.readlink(f"/proc/{children[0]}/ns/pid") if children else ""
    rows = []
    ticks = os.sysconf("SC_CLK_TCK")
    boot = time.time() - float(Path("/proc/uptime").read_text().split()[0])
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit():
                continue
            if entry.name != str(first) and os.readlink(entry / "ns/pid") != namespace:
                continue
            uid = entry.stat().st_uid
            stat = (entry / "stat").read_text()
            words = (entry / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        except OSError:
            continue
        fields = stat.rpartition(")")[2].split()
        seconds = (int(fields[11]) + int(fields[12])) // ticks
        started = time.strftime("%H:%M", time.localtime(boot + int(fields[19]) / ticks))
        shown = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        command = b" ".join(words).decode("utf-8", "replace")
        rows.append([str(uid), entry.name, fields[1], "0", started, "?", shown, command])
    return rows


async def prune(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    wanted = filters_module.parse(request.query.get("filters", ""), ("label", "until"))
    removed: list[str] = []
    freed = 0
    for container in list(engine.containers.by_id.values()):
        if not container.running and _matches(engine, container, {k: v for k, v in wanted.items() if k == "label"}):
            freed += (await _sizes(engine, container))["SizeRw"]
            await engine.containers.remove(container, force=False, volumes=False)
            removed.append(container.id)
    return json_response({"ContainersDeleted": removed, "SpaceReclaimed": freed})


def _seconds(request: Request) -> int | None:
    return request.number("t", 0) if request.query.get("t") else None


ROUTES = [
    ("GET", "/containers/json", list_containers),
    ("POST", "/containers/create", create),
    ("POST", "/containers/prune", prune),
    ("GET", "/containers/{id}/json", inspect),
    ("GET", "/containers/{id}/top", top),
    ("POST", "/containers/{id}/start", start),
    ("POST", "/containers/{id}/stop", stop),
    ("POST", "/containers/{id}/restart", restart),
    ("POST", "/containers/{id}/kill", kill),
    ("POST", "/containers/{id}/rename", rename),
    ("POST", "/containers/{id}/wait", wait),
    ("DELETE", "/containers/{id}", remove),
]
