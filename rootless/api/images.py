"""/images: list, inspect, pull and import (create), load, tag, remove."""

from __future__ import annotations

import base64
import json
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

import trio

from rootless.api import errors
from rootless.api import filters as filters_module
from rootless.api.http import BadRequest, Request, Response, StreamResponse, json_response
from rootless.engine.engine import Engine
from rootless.images import selection, usage
from rootless.images.image import Image, seconds
from rootless.images.importing import ImportRequest
from rootless.images.storing import Progress
from rootless.model import platforms, reference
from rootless.model.errors import Conflict, InvalidParameter, NotFound, RootlessError, is_full, unforeseen
from rootless.store.uses import ID_LETTERS

ROOM_TRIES, ROOM_POLL_SECONDS = 20, 0.05


async def list_images(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    wanted = filters_module.parse(request.query.get("filters", ""), selection.LIST_FILTERS)
    rows = image_rows(engine, wanted, shared=request.flag("shared-size"), manifests=request.flag("manifests"))
    return json_response(rows)


def image_rows(
    engine: Engine, wanted: filters_module.Filters, *, shared: bool, manifests: bool = False
) -> list[dict[str, Any]]:
    """GET /images/json: newest first. Raises InvalidParameter, NotFound (an image a filter names)."""
    dangling = filters_module.boolean(wanted, "dangling")
    every = engine.images.all()
    images = [
        image
        for image in selection.select(every, wanted, engine.images.resolve, time.time())
        if dangling is None or dangling == (not image.names)
    ]
    users: dict[str, list[str]] = {}
    for container in engine.containers.by_id.values():
        users.setdefault(container.record.image_id, []).append(container.id)
    shared_bytes = usage.shared_bytes(every) if shared else {}
    rows = []
    for image in images:
        using = users.get(image.id, [])
        row = _summary(image, wanted, len(using), shared_bytes.get(image.id, -1))
        rows.append({**row, "Manifests": [_manifest(image, using)]} if manifests and image.manifest_digest else row)
    return sorted(rows, key=lambda row: -int(row["Created"]))


def _manifest(image: Image, users: list[str]) -> dict[str, Any]:
    """The API's ImageManifestSummary: what we keep is unpacked, and nothing besides."""
    platform = {"architecture": image.config.get("architecture", ""), "os": image.config.get("os", "linux")}
    if image.config.get("variant"):
        platform["variant"] = image.config["variant"]
    media_type = "application/vnd.oci.image.manifest.v1+json"
    return {
        "ID": image.manifest_digest,
        "Descriptor": {"mediaType": media_type, "digest": image.manifest_digest, "size": image.manifest_bytes},
        "Available": True,
        "Size": {"Content": 0, "Total": image.size},
        "Kind": "image",
        "ImageData": {"Platform": platform, "Containers": users, "Size": {"Unpacked": image.size}},
    }


def _summary(image: Image, wanted: filters_module.Filters, used: int, shared: int) -> dict[str, Any]:
    tags, digests = selection.names_shown(image, wanted)
    return {
        "Id": image.id,
        "ParentId": "",
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": seconds(image.created),
        "Size": image.size,
        "SharedSize": shared,
        "Labels": image.process_config.get("Labels") or {},
        "Containers": used,
    }


async def create(engine: Engine, request: Request, parameters: dict[str, str]) -> Response | StreamResponse:
    """docker's pull (fromImage) and import (fromSrc)."""
    query = request.query
    platform = asked_platform(request)
    if query.get("fromSrc"):
        name = query.get("repo", "") + (f":{query['tag']}" if query.get("tag") else "")
        asked = ImportRequest(
            name,
            tuple(request.query_lists.get("changes", [])),
            query.get("message", ""),
            platform or platforms.here(),
            query["fromSrc"],
        )
        return await _import(engine, request, asked)
    if not query.get("fromImage"):
        raise InvalidParameter("fromImage or fromSrc is needed")
    text, tag = query["fromImage"], query.get("tag", "")
    all_tags = not tag and not reference.has_tag(text)
    if tag:
        text = text.partition("@")[0] + (f"@{tag}" if tag.startswith("sha256:") else f":{tag}")
    wanted = reference.parse(text)
    auth = registry_auth(request)

    async def pull(progress: Progress) -> None:
        if request.flag("lazy") and not all_tags:
            await engine.images.pull_lazily(engine.nursery, wanted, platform, auth, progress)
        else:
            await engine.images.pull(wanted, platform, auth, progress, all_tags=all_tags)
        engine.events.emit("image", "pull", wanted.familiar, {"name": wanted.familiar})

    return await progress_response(engine, request, pull)


async def _import(engine: Engine, request: Request, asked: ImportRequest) -> StreamResponse:
    if asked.source == "-":
        image_id = await engine.images.import_image(request.chunks(), asked)
    else:
        async with aclosing(engine.images.fetched(asked.source)) as archive:
            image_id = await engine.images.import_image(archive, asked)
    engine.events.emit("image", "import", image_id, {"name": asked.name})

    async def done() -> AsyncGenerator[bytes, None]:
        yield json.dumps({"status": image_id}).encode() + b"\r\n"

    return StreamResponse(done(), headers={"Content-Type": "application/json"})


async def load(engine: Engine, request: Request, parameters: dict[str, str]) -> StreamResponse:
    messages: list[dict[str, Any]] = []
    platform = asked_platform(request)
    # the whole body is read before we answer
    for image_id in await engine.images.load(request.chunks(), messages.append, platform):
        engine.events.emit("image", "load", image_id, {"name": image_id})

    async def done() -> AsyncGenerator[bytes, None]:
        for message in messages:
            if "stream" in message or not request.flag("quiet"):
                yield json.dumps(message).encode() + b"\r\n"

    return StreamResponse(done(), headers={"Content-Type": "application/json"})


def asked_platform(request: Request) -> platforms.Platform | None:
    """`platform` of the query: os/architecture, or docker's JSON of one. Raises BadRequest, InvalidParameter."""
    text = request.query.get("platform", "")
    if text.startswith("{"):
        try:
            fields = json.loads(text)
            text = "/".join(str(fields[key]) for key in ("os", "architecture", "variant") if fields.get(key))
        except (ValueError, KeyError, AttributeError):
            raise BadRequest("invalid platform") from None
    return platforms.parse(text) if text else None


async def save(engine: Engine, request: Request, parameters: dict[str, str]) -> StreamResponse:
    names = [parameters["name"]] if "name" in parameters else request.query_lists.get("names", [])
    archive, close = engine.images.save(names, request.query.get("format", "docker"))

    async def closing() -> None:
        await archive.aclose()
        close()

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            async for data in archive:
                yield data
        except RootlessError as error:
            traceback.print_exception(error)
            raise trio.BrokenResourceError from error  # cuts the connection

    return StreamResponse(chunks(), headers={"Content-Type": "application/x-tar"}, closing=closing)


async def progress_response(
    engine: Engine, request: Request, work: Callable[[Progress], Awaitable[None]]
) -> Response | StreamResponse:
    """A stream of progress messages. A failure before the first of them is an HTTP error; later it is the last message,
    as docker's. The work is given up when its client goes, whether there is anything to say to it or not."""
    send, receive = trio.open_memory_channel[dict[str, Any]](float("inf"))
    scope, watch = trio.CancelScope(), trio.CancelScope()
    failure: list[RootlessError] = []

    async def run() -> None:
        with scope, send:
            try:
                await work(send.send_nowait)
            except RootlessError as error:
                failure.append(error)
            except Exception as error:  # a bug must not take the engine with it
                traceback.print_exc()
                failure.append(RootlessError(unforeseen(error)))
            finally:
                watch.cancel()

    async def until_gone() -> None:
        with watch:
            await request.client_gone()
            scope.cancel()

    engine.nursery.start_soon(run)
    engine.nursery.start_soon(until_gone)
    try:
        first = await receive.receive()
    except trio.EndOfChannel:
        return errors.response(failure[0]) if failure else Response(200)

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            yield json.dumps(first).encode() + b"\r\n"
            async for message in receive:
                yield json.dumps(message).encode() + b"\r\n"
        finally:
            scope.cancel()
        if failure:
            text = str(failure[0])
            yield json.dumps({"errorDetail": {"message": text}, "error": text}).encode() + b"\r\n"

    return StreamResponse(chunks(), headers={"Content-Type": "application/json"})


def registry_auth(request: Request) -> dict[str, str] | None:
    """The X-Registry-Auth header: base64 (URL alphabet) of a JSON object. Raises BadRequest."""
    text = request.headers.get("x-registry-auth", "")
    if not text:
        return None
    try:
        value = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except ValueError:
        raise BadRequest("invalid X-Registry-Auth header") from None
    if not isinstance(value, dict):
        raise BadRequest("invalid X-Registry-Auth header")
    return {str(key): item for key, item in value.items() if isinstance(item, str) and item} or None


async def inspect(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    return json_response(engine.images.resolve(parameters["name"]).inspect())


async def history(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    return json_response(engine.images.resolve(parameters["name"]).history())


async def tag(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    image = engine.images.resolve(parameters["name"])
    if not request.query.get("repo"):
        raise InvalidParameter("repository name is needed")
    await engine.images.tag(image, request.query["repo"], request.query.get("tag", ""), parameters["name"])
    engine.events.emit("image", "tag", image.id, {"name": request.query["repo"]})
    return Response(201)


async def remove(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    name = parameters["name"]
    try:
        image = engine.images.resolve(name)
    except NotFound:
        if not reference.is_id(name):
            reference.parse(name)  # what can be none is 400
        raise
    stopped = frozenset(one.id[:ID_LETTERS] for one in engine.containers.by_id.values() if not one.running)
    return json_response(await _remove(engine, image, name, force=request.flag("force"), stopped=stopped))


def _has_twin(engine: Engine, image: Image) -> bool:
    """Whether there is another on the same mount, which is perhaps starting."""
    return any(other.layers == image.layers and other.id != image.id for other in engine.images.all())


async def _once_there_is_room(remove: Callable[[], Awaitable[list[dict[str, str]]]]) -> list[dict[str, str]]:
    """A server that is not needed any more holds the room of its index until it has left."""
    for _ in range(ROOM_TRIES):
        await trio.sleep(ROOM_POLL_SECONDS)
        try:
            return await remove()
        except RootlessError as error:
            if not is_full(error.__cause__):
                raise
    return await remove()


async def _remove(
    engine: Engine, image: Image, name: str, *, force: bool, stopped: frozenset[str] = frozenset()
) -> list[dict[str, str]]:
    """See Images.remove."""
    mounted = engine.images.source(image).key
    remove = partial(engine.images.remove, name, force=force, stopped=stopped)
    try:
        done = await remove()
    except RootlessError as error:
        if not is_full(error.__cause__) or _has_twin(engine, image) or image.id in dict(engine.images.uses.all()):
            raise
        await engine.link.unmount(mounted)
        done = await _once_there_is_room(remove)
    if any("Deleted" in row for row in done) and not _has_twin(engine, image):
        await engine.link.unmount(mounted)
    for row in done:
        action, name = next(iter(row.items()))
        engine.events.emit("image", "untag" if action == "Untagged" else "delete", image.id, {"name": name})
    return done


async def prune(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    wanted = filters_module.parse(request.query.get("filters", ""), selection.PRUNE_FILTERS)
    only_dangling = filters_module.boolean(wanted, "dangling") is not False
    used = {image_id for image_id, _ in engine.images.uses.all()}
    every = [image for image in engine.images.all() if not image.read_only and not engine.images.is_host(image)]
    before = usage.layer_bytes(every)
    done: list[dict[str, str]] = []
    for image in selection.select(every, wanted, engine.images.resolve, time.time()):
        if image.id in used or (only_dangling and image.names):
            continue
        try:
            done += await _remove(engine, image, image.id, force=True)
        except (NotFound, Conflict):  # another engine was faster, or somebody needs it now
            continue
    freed = sum(before.get(row.get("Deleted", ""), 0) for row in done)
    return json_response({"ImagesDeleted": done or None, "SpaceReclaimed": freed})


ROUTES = [
    ("GET", "/images/json", list_images),
    ("POST", "/images/create", create),
    ("POST", "/images/load", load),
    ("GET", "/images/get", save),
    ("GET", "/images/{name*}/get", save),
    ("POST", "/images/prune", prune),
    ("GET", "/images/{name*}/json", inspect),
    ("GET", "/images/{name*}/history", history),
    ("POST", "/images/{name*}/tag", tag),
    ("DELETE", "/images/{name*}", remove),
]
