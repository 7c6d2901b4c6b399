"""/containers/{id}/{attach,logs,resize}: bytes to and from a container.

Without a terminal the two outputs share the connection in frames (API documentation, "Stream format"): stream number
1 or 2, three zeros, the length as a big-endian 32-bit number, the bytes. With one, the bytes are raw."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, Awaitable, Callable

import trio

from rootless.api.http import Hijacked, Request, Response, StreamResponse
from rootless.engine import logs
from rootless.engine.container import Container
from rootless.engine.detach import KeyFilter, parse_keys
from rootless.engine.engine import Engine
from rootless.engine.logs import LogLine
from rootless.engine.streams import Attachment, Streams
from rootless.model import clock
from rootless.model.errors import InvalidParameter

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
_NUMBERS = {"stdin": 0, "stdout": 1, "stderr": 2}


def content_type(terminal: bool) -> str:
    return RAW if terminal else MULTIPLEXED


def frame(stream: str, data: bytes, terminal: bool) -> bytes:
    return data if terminal else struct.pack(">BxxxI", _NUMBERS[stream], len(data)) + data


async def attach(engine: Engine, request: Request, parameters: dict[str, str]) -> None:
    container = engine.containers.find(parameters["id"])
    keys = parse_keys(request.query.get("detachKeys", ""))
    terminal = container.terminal
    attachment = container.streams.attach(
        request.flag("stdout") and request.flag("stream"), request.flag("stderr") and request.flag("stream")
    )
    try:
        connection = await request.hijack(content_type(terminal) if request.version >= "1.42" else RAW)
        if request.flag("logs"):
            for line in logs.read_all(engine.containers.log_path(container)):
                await connection.send(frame(line.stream, line.data, terminal))
        if not request.flag("stream"):
            return
        takes_input = request.flag("stdin") and bool(container.record.config["OpenStdin"])
        await converse(
            connection,
            container.streams,
            attachment,
            terminal=terminal,
            takes_input=takes_input,
            keys=keys,
            at_end_of_input=lambda: _input_ended(engine, container),
        )
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return  # the client has gone
    finally:
        container.streams.detach(attachment)


async def _input_ended(engine: Engine, container: Container) -> None:
    """The client closed its side: the container's input ends too, if it was to be fed once."""
    if container.record.config["StdinOnce"]:
        await close_process_input(engine, container.id, container.streams)


async def close_process_input(engine: Engine, process_id: str, streams: Streams) -> None:
    """Ours and the launcher's descriptor: the process sees the end when both are closed."""
    from rootless.launcher import messages
    from rootless.model.errors import RootlessError

    if await streams.close_input():
        try:
            await engine.link.request(messages.CloseStdin(process_id))
        except RootlessError:
            return  # it has ended


async def converse(
    connection: Hijacked,
    streams: Streams,
    attachment: Attachment,
    *,
    terminal: bool,
    takes_input: bool,
    keys: bytes,
    at_end_of_input: Callable[[], Awaitable[None]],
) -> bool:
    """Both directions until the process' output ends (True), or the client has gone or typed the detach keys."""
    ended = False

    async def outward() -> None:
        nonlocal ended
        async for name, data in attachment.chunks:
            await connection.send(frame(name, data, terminal))
        ended = True

    async def inward() -> None:
        typed = KeyFilter(keys)
        while data := await connection.receive():
            if not takes_input:
                continue
            detached = False
            if terminal:
                data, detached = typed.feed(data)
            await streams.opened.wait()
            if data and not await streams.write(data):
                continue
            if detached:
                nursery.cancel_scope.cancel()
                return
        if takes_input:
            await streams.opened.wait()
            await at_end_of_input()

    async def guarded() -> None:
        try:
            await inward()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            nursery.cancel_scope.cancel()  # gone altogether: nobody reads either

    async with trio.open_nursery() as nursery:
        nursery.start_soon(guarded)
        try:
            await outward()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        nursery.cancel_scope.cancel()
    return ended


async def container_logs(engine: Engine, request: Request, parameters: dict[str, str]) -> StreamResponse:
    container = engine.containers.find(parameters["id"])
    wanted = {name for name in ("stdout", "stderr") if request.flag(name)}
    if not wanted:
        raise InvalidParameter("Bad parameters: you must choose at least one stream")
    tail_text = request.query.get("tail", "all")
    tail = int(tail_text) if tail_text.isdecimal() else None
    try:
        since = clock.query_time(request.query.get("since", "")) or 0
        until = clock.query_time(request.query.get("until", ""))
    except ValueError as error:
        raise InvalidParameter(f"invalid value for since or until: {error}") from None
    chunks = _logs(engine, container, wanted, tail, since, until, request)
    return StreamResponse(chunks, headers={"Content-Type": content_type(container.terminal)})


async def _logs(
    engine: Engine,
    container: Container,
    wanted: set[str],
    tail: int | None,
    since: int,
    until: int | None,
    request: Request,
) -> AsyncGenerator[bytes, None]:
    path = engine.containers.log_path(container)
    stamps, terminal = request.flag("timestamps"), container.terminal

    def shown(line: LogLine) -> bytes:
        if line.stream not in wanted:
            return b""
        if since or until is not None:
            moment = clock.nanoseconds(line.time)
            if moment < since or (until is not None and moment > until):
                return b""
        data = line.time.encode() + b" " + line.data if stamps else line.data
        return frame(line.stream, data, terminal)

    start = path.stat().st_size if path.exists() else 0  # what is followed begins where what is read ends
    lines = logs.read_all(path, start) if tail is None else iter(logs.read_tail(path, tail, start))
    pending = bytearray()
    for line in lines:
        pending += shown(line)
        if len(pending) > 64 << 10:
            yield bytes(pending)
            pending.clear()
    yield bytes(pending)
    if request.flag("follow") and container.running:
        async for line in logs.follow(path, lambda: container.log, start):
            yield shown(line)


async def resize(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    container = engine.containers.find(parameters["id"])
    container.streams.resize(*size_of(request))
    return Response(200)


def size_of(request: Request) -> tuple[int, int]:
    """(rows, columns). Raises InvalidParameter."""
    rows, columns = request.number("h", 0), request.number("w", 0)
    if not (0 <= rows < 65536 and 0 <= columns < 65536):
        raise InvalidParameter(f"invalid size {rows} x {columns}")
    return rows, columns


ROUTES = [
    ("POST", "/containers/{id}/attach", attach),
    ("GET", "/containers/{id}/logs", container_logs),
    ("POST", "/containers/{id}/resize", resize),
]
