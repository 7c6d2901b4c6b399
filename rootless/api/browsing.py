"""Mounts for the host's user. Not docker's: `image mount` and `container mount` are of podman's command line."""

from __future__ import annotations

from rootless.api.http import Request, Response, json_response
from rootless.engine.engine import Engine


async def mounted(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    """[{"Name": "image-…" or "container-…", "Path": …}]"""
    return json_response([{"Name": name, "Path": path} for name, path in sorted(engine.browsing.mounted().items())])


async def mount_image(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    path = await engine.browsing.mount_image(engine.images.resolve(parameters["name"]))
    return json_response({"Path": path})


async def unmount_image(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    image = engine.images.resolve(parameters["name"])
    await engine.browsing.unmount(engine.browsing.image_name(image), lazily=request.flag("force"))
    return Response(204)


async def mount_container(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    path = await engine.browsing.mount_container(engine.containers.find(parameters["id"]))
    return json_response({"Path": path})


async def unmount_container(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    container = engine.containers.find(parameters["id"])
    await engine.browsing.unmount(engine.browsing.container_name(container), lazily=request.flag("force"))
    return Response(204)


ROUTES = [
    ("GET", "/rootless/mounts", mounted),
    ("POST", "/rootless/images/{name*}/mount", mount_image),
    ("POST", "/rootless/images/{name*}/unmount", unmount_image),
    ("POST", "/rootless/containers/{id}/mount", mount_container),
    ("POST", "/rootless/containers/{id}/unmount", unmount_container),
]
