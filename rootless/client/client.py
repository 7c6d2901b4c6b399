"""The Engine API as the command line uses it: a method and a path, values for the query, a body, and out comes a value.

Connections are kept for the next request where the last one is done with; a stream or a hijack takes one for itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from rootless.client.connection import JSON_HEADERS, Connection, ConnectionLost, Hijacked, NotTaken, Response
from rootless.client.endpoint import Endpoint
from rootless.model.errors import Unavailable

Query = Mapping[str, object]
_T = TypeVar("_T")
MAX_STARTS = 2  # the engine that was found to listen may have been about to die


class Client:
    """Talks to one engine, and starts it where it is our own and not there."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._idle: Connection | None = None

    def call(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        value: object = None,
        body: Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request, read its whole response; JSON as a value. `value` is sent as JSON, `body` as it is.

        Raises ApiError, ConnectionLost, Unavailable."""
        return self.open(method, path, query, value, body, headers).json()

    def open(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        value: object = None,
        body: Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Like `call`, with the response's body still to be read."""
        data: bytes | Iterable[bytes] | None = body
        sent = dict(headers or {})
        if value is not None:
            data = json.dumps(value).encode()
            sent |= JSON_HEADERS
        connection, response = self._again(
            self.connection(), lambda connection: connection.request(method, target(path, query), sent, data), method
        )
        self._idle = connection
        return response.checked()

    def ask(self, method: str, path: str, query: Query | None = None) -> Connection:
        """Send a request on a connection of its own and do not wait for the response."""
        connection = self.connect()
        connection.send_request(method, target(path, query))
        return connection

    def hijack(self, path: str, query: Query | None = None, value: object = None) -> Hijacked:
        """POST and take the connection over. Raises ApiError, ConnectionLost, Unavailable."""
        body = None if value is None else json.dumps(value).encode()
        return self._again(self.connection(), lambda connection: connection.hijack(target(path, query), body))[1]

    def _again(
        self, connection: Connection, send: Callable[[Connection], _T], method: str = "POST"
    ) -> tuple[Connection, _T]:
        """What `send` returns, and on which connection: on another one where our engine left, or was killed, just then
        and a second request does no harm."""
        try:
            return connection, send(connection)
        except ConnectionLost as error:
            if self.endpoint.settings is None or not (method == "GET" or isinstance(error, NotTaken)):
                raise
        connection.close()
        connection = self.connect()
        return connection, send(connection)

    def connection(self) -> Connection:
        """The connection that is free, or a new one; the caller has it."""
        kept, self._idle = self._idle, None
        if kept is not None:
            try:
                if kept.idle:
                    return kept
            except ConnectionLost:
                pass
            kept.close()
        return self.connect()

    def connect(self) -> Connection:
        """A new connection, with the engine started if that is ours to do. Raises Unavailable, RootlessError."""
        starts = 0
        while True:
            try:
                return Connection(self.endpoint.socket_path)
            except OSError as error:
                gone = isinstance(error, FileNotFoundError | ConnectionRefusedError)
                if self.endpoint.settings is None or not gone or starts == MAX_STARTS:
                    raise Unavailable(
                        f"Cannot connect to the engine at {self.endpoint.url}: {error.strerror}. Is it running?"
                    ) from error
            from rootless.client.engine_start import start_engine

            start_engine(self.endpoint.settings)
            starts += 1


def target(path: str, query: Query | None) -> str:
    """A path with the values of a query that are given: None and False are left out, lists repeat the name.

    A dictionary is sent as JSON, as docker wants filters to be."""
    if not query:
        return path
    pairs: list[tuple[str, str]] = []
    for name, value in query.items():
        if value is None or value is False or value == "":
            continue
        if value is True:
            pairs.append((name, "1"))
        elif isinstance(value, list | tuple):
            pairs.extend((name, str(item)) for item in value)
        elif isinstance(value, Mapping):
            if value:
                pairs.append((name, json.dumps(value)))
        else:
            pairs.append((name, str(value)))
    return f"{path}?{urlencode(pairs)}" if pairs else path


def segment(name: str) -> str:
    """A name given by the user as a part of a path."""
    return quote(name, safe=":@")


def image_path(name: str) -> str:
    """An image's name as a part of a path; its slashes stay."""
    return quote(name, safe=":@/")
