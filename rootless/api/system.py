"""/_ping, /version, /info, /events, /auth, and our own /rootless/…"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import trio

from rootless.api import filters as filters_module
from rootless.api import images
from rootless.api.http import Request, Response, StreamResponse, json_response
from rootless.engine import host_info
from rootless.engine.engine import Engine
from rootless.images.storing import Progress
from rootless.model import clock
from rootless.model.errors import InvalidParameter

_EVENT_FILTERS = ("container", "event", "image", "label", "network", "type", "volume", "scope", "daemon")


async def ping(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    headers = {"Content-Type": "text/plain; charset=utf-8", "Builder-Version": "1", "Swarm": "inactive"}
    return Response(
        200, b"OK", {**headers, "Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache"}
    )


async def version(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    return json_response(host_info.version())


async def info(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    await engine.link.get()  # the id map is the launcher's to tell
    return json_response(host_info.info(engine, await engine.storage.in_force()))


async def status(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    return json_response(engine.status())


async def stop(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    await engine.stop(force=request.flag("force"))
    return Response(204)


async def events(engine: Engine, request: Request, parameters: dict[str, str]) -> StreamResponse:
    wanted = filters_module.parse(request.query.get("filters", ""), _EVENT_FILTERS)
    try:
        since = clock.query_time(request.query.get("since", ""))
        until = clock.query_time(request.query.get("until", ""))
    except ValueError as error:
        raise InvalidParameter(str(error)) from None
    return StreamResponse(_events(engine, wanted, since, until), headers={"Content-Type": "application/json"})


async def _events(
    engine: Engine, wanted: filters_module.Filters, since: int | None, until: int | None
) -> AsyncGenerator[bytes, None]:
    listener = engine.events.listen()
    try:
        if since is not None:
            for event in list(engine.events.kept):
                if since <= event["timeNano"] <= (until or event["timeNano"]) and _event_matches(event, wanted):
                    yield json.dumps(event).encode() + b"\n"
        left = max(0.0, (until - time.time_ns()) / 1e9) if until is not None else float("inf")
        deadline = trio.current_time() + left
        while True:
            with trio.move_on_at(deadline) as scope:
                event = await listener.receive()
            if scope.cancelled_caught:
                return
            if _event_matches(event, wanted):
                yield json.dumps(event).encode() + b"\n"
    except trio.EndOfChannel:
        return
    finally:
        listener.close()


def _event_matches(event: Mapping[str, Any], wanted: filters_module.Filters) -> bool:
    attributes = event["Actor"]["Attributes"]
    names = (event["Actor"]["ID"], attributes.get("name", ""))
    for name, values in wanted.items():
        if name == "type":
            holds = event["Type"] in values
        elif name == "event":
            holds = event["Action"].partition(":")[0] in values
        elif name == "label":
            holds = filters_module.labels_match(values, attributes)
        elif name in ("container", "image", "network", "volume"):
            if name == "image" and event["Type"] == "container":
                holds = attributes.get("image") in values
            else:
                holds = event["Type"] == name and any(v in names or names[0].startswith(v) for v in values)
        else:
            holds = True
        if not holds:
            return False
    return True


async def df(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    kinds = set(request.query_lists.get("type", []))
    if unknown := kinds - {"container", "image", "volume", "build-cache"}:
        raise InvalidParameter(f"unknown object type: {sorted(unknown)[0]}")
    from rootless.engine.disk_usage import disk_usage

    rows = images.image_rows(engine, {}, shared=True) if not kinds or "image" in kinds else []
    return json_response(await disk_usage(engine, kinds, rows))


async def check(engine: Engine, request: Request, parameters: dict[str, str]) -> Response | StreamResponse:
    from rootless.images.checking import Check

    async def work(progress: Progress) -> None:
        def say(text: str) -> None:
            trio.from_thread.run_sync(progress, {"status": text})

        checking = Check(engine.images.layout, request.flag("repair"), say)
        problems = await trio.to_thread.run_sync(checking.run)
        engine.images.forget()
        for problem in problems:
            progress({"problem": str(problem), "mended": problem.mended})
        for warning in (incomplete := engine.images.warnings()):
            progress({"problem": warning, "mended": False})
        left = sum(not problem.mended for problem in problems) + len(incomplete)
        found = f"{left} problems" if left else "no problems" if not problems else "all problems mended"
        progress({"summary": f"{checking.images} images, {checking.bytes_read} bytes of layers read: {found}"})

    return await images.progress_response(engine, request, work)


ROUTES = [
    ("GET", "/_ping", ping),
    ("HEAD", "/_ping", ping),
    ("GET", "/version", version),
    ("GET", "/info", info),
    ("GET", "/events", events),
    ("GET", "/rootless/status", status),
    ("POST", "/rootless/stop", stop),
    ("POST", "/rootless/check", check),
    ("GET", "/system/df", df),
]
