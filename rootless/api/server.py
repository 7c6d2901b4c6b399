"""The Engine API on a listening socket: one task a connection, requests to handlers, errors to statuses.

The handlers are in one file a resource; each has a table of (method, pattern, function)."""

from __future__ import annotations

import os
import platform
import socket
import struct
from collections.abc import Awaitable, Callable

import trio

from rootless import __version__
from rootless.api import (
    browsing,
    container_files,
    containers,
    errors,
    execs,
    images,
    networks,
    registry,
    streams,
    system,
    volumes,
)
from rootless.api.http import BadRequest, Connection, Request, Response, StreamResponse, json_response
from rootless.api.router import VERSION, Router, UnsupportedVersion, split_version
from rootless.engine.engine import Engine
from rootless.model.errors import RootlessError

Handler = Callable[[Engine, Request, dict[str, str]], Awaitable[Response | StreamResponse | None]]

_RESOURCES = (system, containers, container_files, streams, execs, images, registry, networks, volumes, browsing)
_ROUTES: list[tuple[str, str, Handler]] = [row for resource in _RESOURCES for row in resource.ROUTES]
_ROUTER: Router[Handler] = Router(_ROUTES)
_HEADERS = {
    "Api-Version": VERSION,
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": f"rootless/{__version__} ({platform.system().lower()})",
}


async def serve(engine: Engine, listener: socket.socket) -> None:
    """Until engine.leaving; then open connections are cut and the socket's file is removed."""
    async with trio.open_nursery() as nursery:
        listening = trio.SocketListener(trio.socket.from_stdlib_socket(_non_blocking(listener)))

        async def accept() -> None:
            while True:
                stream = await listening.accept()
                nursery.start_soon(_client, engine, stream)

        nursery.start_soon(accept)
        await engine.leaving.wait()
        engine.settings.api_socket.unlink(missing_ok=True)
        with trio.move_on_after(2):  # who asked us to leave gets an answer
            while engine.clients:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


def _non_blocking(listener: socket.socket) -> socket.socket:
    listener.setblocking(False)
    return listener


async def _client(engine: Engine, stream: trio.SocketStream) -> None:
    credentials = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    if struct.unpack("3i", credentials)[1] not in (os.getuid(), 0):
        await stream.aclose()
        return
    engine.clients += 1
    try:

        async def handle(request: Request) -> Response | StreamResponse | None:
            return await _respond(engine, request)

        await Connection(stream, handle, _HEADERS).serve()
    except Exception:  # what nobody thought of: this client's connection ends, and not the engine
        import traceback

        traceback.print_exc()
    finally:
        engine.clients -= 1


async def _respond(engine: Engine, request: Request) -> Response | StreamResponse | None:
    engine.last_use = trio.current_time()
    try:
        request.version, path = split_version(request.path)
        match = _ROUTER.find(request.method, path)
        if match is None:
            if allowed := _ROUTER.methods(path):
                return json_response({"message": f"method {request.method} is not allowed, only {allowed}"}, 405)
            return json_response({"message": "page not found"}, 404)
        return await match.handler(engine, request, match.parameters)
    except UnsupportedVersion as error:
        return json_response({"message": str(error)}, 400)
    except (RootlessError, BadRequest) as error:
        return errors.response(error)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        import traceback

        traceback.print_exc()
        return errors.response(error)
