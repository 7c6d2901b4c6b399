"""/containers/{id}/{archive,changes,export} and /commit: a container's files, and images of them."""

from __future__ import annotations

import base64
import json
import traceback
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import trio

from rootless.api.http import Request, Response, StreamResponse, json_response
from rootless.engine.engine import Engine
from rootless.images.committing import CommitRequest
from rootless.model import request_types
from rootless.model.errors import InvalidParameter, RootlessError
from rootless.model.request_types import check_types

_TAR = {"Content-Type": "application/x-tar"}


async def changes(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    found = await engine.files.changes(engine.containers.find(parameters["id"]))
    return json_response([{"Path": path, "Kind": kind} for kind, path in found])


async def export(engine: Engine, request: Request, parameters: dict[str, str]) -> StreamResponse:
    container = engine.containers.find(parameters["id"])
    response = await _stream(engine, container.id, "export", "")
    engine.events.emit("container", "export", container.id, container.attributes)
    return response


async def read(engine: Engine, request: Request, parameters: dict[str, str]) -> StreamResponse:
    container = engine.containers.find(parameters["id"])
    path = _path(request)
    status = _encoded(await engine.files.stat(container, path))
    response = await _stream(engine, container.id, "read", path)
    response.headers |= status
    return response


async def stat(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    container = engine.containers.find(parameters["id"])
    return Response(200, b"", _encoded(await engine.files.stat(container, _path(request))))


async def write(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    container = engine.containers.find(parameters["id"])
    replace = not request.flag("noOverwriteDirNonDir")
    await engine.files.write(container, _path(request), request.chunks(), replace=replace)
    return Response(200)


async def commit(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    query = request.query
    container = engine.containers.find(query.get("container", ""))
    config: dict[str, Any] = await request.json()
    check_types(config, request_types.CONTAINER)
    asked = CommitRequest(
        name=query.get("repo", "") + (f":{query['tag']}" if query.get("repo") and query.get("tag") else ""),
        changes=tuple(request.query_lists.get("changes", [])),
        message=query.get("comment", ""),
        author=query.get("author", ""),
        config=config,
    )
    image_id = await engine.commit(container, asked, pause=request.flag("pause", default=True))
    engine.events.emit("container", "commit", container.id, {**container.attributes, "imageID": image_id})
    return json_response({"Id": image_id}, 201)


def _path(request: Request) -> str:
    path = request.query.get("path", "")
    if not path or "\0" in path:
        raise InvalidParameter("bad parameter: path is needed")
    return path


def _encoded(status: dict[str, object]) -> dict[str, str]:
    return {"X-Docker-Container-Path-Stat": base64.b64encode(json.dumps(status).encode()).decode()}


async def _stream(engine: Engine, container_id: str, action: str, path: str) -> StreamResponse:
    """What fails before the first byte is an HTTP error; what fails later cuts the connection."""
    stack = AsyncExitStack()
    work = await stack.enter_async_context(engine.files.work(engine.containers.find(container_id), action, path))
    try:
        first = await work.receive()
        if not first:
            await work.result()
    except BaseException:
        with trio.CancelScope(shield=True):
            await stack.aclose()
        raise

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            data = first
            while data:
                yield data
                data = await work.receive()
            await work.result()
        except RootlessError as error:
            traceback.print_exception(error)
            raise trio.BrokenResourceError from error

    return StreamResponse(chunks(), headers=dict(_TAR), closing=stack.aclose)


ROUTES = [
    ("GET", "/containers/{id}/changes", changes),
    ("GET", "/containers/{id}/export", export),
    ("HEAD", "/containers/{id}/archive", stat),
    ("GET", "/containers/{id}/archive", read),
    ("PUT", "/containers/{id}/archive", write),
    ("POST", "/commit", commit),
]
