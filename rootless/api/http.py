"""HTTP/1.1 on a stream, with h11: requests in, responses out, and the hijack that docker uses for attach and exec.

Owns one connection; knows nothing of containers. Called by `api.server`, which gives it a handler.

A hijack (moby's API documentation, "Hijacking"): the client sends `Connection: Upgrade, Upgrade: tcp` and gets 101, or
sends neither and gets 200 with no length; either way the connection carries raw bytes from there on."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

import h11
import trio

MAX_HEADER_BYTES = 64 << 10
READ_BYTES = 256 << 10
MAX_JSON_BYTES = 8 << 20


class BadRequest(Exception):
    """The request cannot be read; the message goes to the client with status 400."""


@dataclass
class Response:
    """A whole response. `body` is bytes; `json_response` makes one of a value."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class StreamResponse:
    """A response whose body comes in pieces; the headers go out at once. `closing` is awaited at the end in any case:
    a generator that was never begun, because the client had gone, does not even run its `finally`."""

    chunks: AsyncGenerator[bytes, None]
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    closing: Callable[[], Awaitable[None]] | None = None


def json_response(value: object, status: int = 200) -> Response:
    body = json.dumps(value, separators=(",", ":")).encode() + b"\n"
    return Response(status, body, {"Content-Type": "application/json"})


Handler = Callable[["Request"], Awaitable[Response | StreamResponse | None]]


class Hijacked:
    """The raw stream of a hijacked connection: bytes that had already come are given first."""

    def __init__(self, stream: trio.SocketStream, early: bytes) -> None:
        self._stream = stream
        self._early = early

    async def receive(self) -> bytes:
        """The next bytes; b"" at the end. Raises trio.BrokenResourceError."""
        if self._early:
            early, self._early = self._early, b""
            return early
        return await self._stream.receive_some(READ_BYTES)

    async def send(self, data: bytes | memoryview) -> None:
        await self._stream.send_all(data)

    async def send_eof(self) -> None:
        """Half-close; harmless on a connection that is gone."""
        try:
            await self._stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


class Request:
    """One request. The body is read by the handler, or discarded after it."""

    def __init__(self, connection: Connection, event: h11.Request) -> None:
        self._connection = connection
        self.method = event.method.decode("ascii")
        parts = urlsplit(event.target.decode("ascii", "replace"))
        self.path = unquote(parts.path)
        self.query: dict[str, str] = {}
        self.query_lists: dict[str, list[str]] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            self.query.setdefault(name, value)
            self.query_lists.setdefault(name, []).append(value)
        self.headers: Mapping[str, str] = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in event.headers
        }
        self.version = ""  # of the API, without the v; filled in by the router

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean of the query, as docker's daemon reads them."""
        value = self.query.get(name)
        if value is None:
            return default
        return value.strip().lower() not in ("", "0", "no", "false", "none")

    def number(self, name: str, default: int) -> int:
        """A whole number of the query. Raises BadRequest."""
        value = self.query.get(name, "")
        try:
            return int(value) if value else default
        except ValueError:
            raise BadRequest(f"invalid value for {name}: {value!r} is not a number") from None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, as it comes."""
        while (data := await self._connection.body()) is not None:
            yield data

    async def client_gone(self) -> None:
        """Returns when the client has closed its side; never where that cannot be seen: it has sent more, or uses TLS.
        To be cancelled before the response ends."""
        await self._connection.client_gone()

    async def json(self) -> dict[str, object]:
        """The body as a JSON object; {} where there is none. Raises BadRequest."""
        parts: list[bytes] = []
        size = 0
        async for data in self.chunks():
            parts.append(data)
            size += len(data)
            if size > MAX_JSON_BYTES:
                raise BadRequest(f"request body of more than {MAX_JSON_BYTES} bytes")
        text = b"".join(parts).strip()
        if not text:
            return {}
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"invalid JSON: {error}") from None
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise BadRequest("invalid JSON: an object is needed")
        return value

    async def hijack(self, content_type: str) -> Hijacked:
        """Take the connection over; the handler then returns None."""
        return await self._connection.hijack(self.headers.get("upgrade", "").lower() == "tcp", content_type)


class Connection:
    """One client. `serve` runs until it goes or is hijacked and done."""

    def __init__(self, stream: trio.SocketStream, handler: Handler, server_headers: Mapping[str, str]) -> None:
        self._stream = stream
        self._handler = handler
        self._server_headers = server_headers
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        self._hijacked = False

    async def serve(self) -> None:
        try:
            while await self._one():
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the client has gone
        finally:
            with trio.CancelScope(shield=True):
                await self._stream.aclose()

    async def _one(self) -> bool:
        """One request and its response. False: the connection is done."""
        try:
            event = await self._next_event()
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint, str(error))
            return False
        if not isinstance(event, h11.Request):
            return False
        try:
            request = Request(self, event)
        except ValueError as error:  # "//[" is no address
            await self._refuse(400, str(error))
            return False
        response = await self._handler(request)
        if self._hijacked:
            return False
        if response is None:
            response = Response(204)
        if isinstance(response, Response):
            await self._send_whole(response, request.method == "HEAD")
        else:
            await self._send_stream(response)
        try:
            while await self.body() is not None:  # what the handler left unread
                pass
            if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
                return False
            self._h11.start_next_cycle()
        except (h11.ProtocolError, BadRequest):  # also a client that had its answer and sends no more of its upload
            return False
        return True

    async def _next_event(self) -> object:
        while True:
            event = self._h11.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self._h11.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await self._send(self._h11.send(go_on))
            self._h11.receive_data(await self._stream.receive_some(READ_BYTES))

    async def body(self) -> bytes | None:
        """The next piece of the request's body; None at its end. Raises BadRequest where the client breaks off."""
        if self._h11.their_state is not h11.SEND_BODY:
            return None
        try:
            event = await self._next_event()
        except h11.RemoteProtocolError as error:
            raise BadRequest(f"the request body broke off: {error}") from None
        return bytes(event.data) if isinstance(event, h11.Data) else None

    async def client_gone(self) -> None:
        if isinstance(self._stream, trio.SocketStream):
            try:
                if not await self._stream.socket.recv(1, trio.socket.MSG_PEEK):
                    return
            except (OSError, trio.ClosedResourceError):
                return
        await trio.sleep_forever()

    async def hijack(self, upgrade: bool, content_type: str) -> Hijacked:
        while await self.body() is not None:
            pass
        head = b"HTTP/1.1 101 UPGRADED\r\n" if upgrade else b"HTTP/1.1 200 OK\r\n"
        head += f"Content-Type: {content_type}\r\n".encode()
        if upgrade:
            head += b"Connection: Upgrade\r\nUpgrade: tcp\r\n"
        self._hijacked = True
        await self._stream.send_all(head + b"\r\n")
        return Hijacked(self._stream, bytes(self._h11.trailing_data[0]))

    async def _send_whole(self, response: Response, head: bool) -> None:
        headers = {**self._server_headers, **response.headers}
        if response.status not in (204, 304):
            headers.setdefault("Content-Length", str(len(response.body)))
        data = self._head(response.status, headers)
        if response.body and not head and response.status not in (204, 304):
            data += self._h11.send(h11.Data(data=response.body)) or b""
        data += self._h11.send(h11.EndOfMessage()) or b""
        await self._send(data)

    async def _send_stream(self, response: StreamResponse) -> None:
        try:
            await self._send(self._head(response.status, {**self._server_headers, **response.headers}))
            async with aclosing(response.chunks) as chunks:
                async for chunk in chunks:
                    if chunk:
                        await self._send(self._h11.send(h11.Data(data=chunk)))
            await self._send(self._h11.send(h11.EndOfMessage()))
        finally:
            if response.closing is not None:
                with trio.CancelScope(shield=True):
                    await response.closing()

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        return self._h11.send(h11.Response(status_code=status, headers=list(headers.items()))) or b""

    async def _send(self, data: bytes | None) -> None:
        if data:
            await self._stream.send_all(data)

    async def _refuse(self, status: int, message: str) -> None:
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = json_response({"message": message}, status)
            response.headers["Connection"] = "close"
            try:
                await self._send_whole(response, head=False)
            except h11.LocalProtocolError:
                return
