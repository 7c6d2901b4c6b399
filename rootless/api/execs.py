"""/containers/{id}/exec and /exec: further processes of a running container."""

from __future__ import annotations

from typing import Any

import trio

from rootless.api.http import Request, Response, json_response
from rootless.api.streams import RAW, close_process_input, content_type, converse, frame, size_of
from rootless.engine.detach import parse_keys
from rootless.engine.engine import Engine
from rootless.engine.execs import Exec
from rootless.engine.specification import terminal_size
from rootless.model import request_types
from rootless.model.errors import RootlessError
from rootless.model.request_types import check_types

EXIT_SECONDS = 2.0  # between the end of a process' output and its own


async def create(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    container = engine.containers.find(parameters["id"])
    made = engine.execs.create(container, await request.json())
    return json_response({"Id": made.id}, 201)


async def start(engine: Engine, request: Request, parameters: dict[str, str]) -> Response | None:
    made = engine.execs.find(parameters["id"])
    body: dict[str, Any] = await request.json()
    check_types(body, request_types.EXEC_START)
    size = terminal_size(body.get("ConsoleSize"))
    if body.get("Detach"):
        await engine.execs.start(made, size)
        return Response(200)
    await _attached(engine, request, made, size)
    return None


async def _attached(engine: Engine, request: Request, made: Exec, size: tuple[int, int]) -> None:
    """As docker does, the connection is taken over before the process is started: a failure is told on it."""
    engine.execs.check(made)
    terminal = made.process.terminal
    attachment = made.streams.attach(bool(made.body.get("AttachStdout")), bool(made.body.get("AttachStderr")))
    try:
        connection = await request.hijack(content_type(terminal) if request.version >= "1.42" else RAW)

        async def input_ended() -> None:
            await close_process_input(engine, made.id, made.streams)

        try:
            await engine.execs.start(made, size)
        except RootlessError as error:
            await connection.send(frame("stderr", f"{error}\r\n".encode(), terminal))
            return
        ended = await converse(
            connection,
            made.streams,
            attachment,
            terminal=terminal,
            takes_input=made.process.open_stdin,
            keys=parse_keys(str(made.body.get("DetachKeys") or "")),
            at_end_of_input=input_ended,
        )
        with trio.move_on_after(EXIT_SECONDS):
            if ended:  # the client asks for the exit code as soon as the connection ends
                await made.exited.wait()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return  # the client has gone; the process goes on
    finally:
        made.streams.detach(attachment)


async def inspect(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    return json_response(engine.execs.find(parameters["id"]).inspect())


async def resize(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    made = engine.execs.find(parameters["id"])
    made.streams.resize(*size_of(request))
    return Response(200)


ROUTES = [
    ("POST", "/containers/{id}/exec", create),
    ("POST", "/exec/{id}/start", start),
    ("POST", "/exec/{id}/resize", resize),
    ("GET", "/exec/{id}/json", inspect),
]
