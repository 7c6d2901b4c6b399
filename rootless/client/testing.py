"""A stand-in for the engine in tests: answers requests on a Unix socket from a table, and remembers them."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import h11

Takeover = Callable[[socket.socket], None]


@dataclass
class Received:
    """A request."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes = b""

    @property
    def value(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """What is answered: JSON, or raw bytes; or the connection is taken over after a 101."""

    value: object = None
    status: int = 200
    raw: bytes | None = None
    takeover: Takeover | None = None
    cut: bool = False  # close the connection in the middle of the body


Handler = Callable[[Received], Answer]


@dataclass
class FakeEngine:
    """Serves until the context ends. `answers` is {"GET /containers/json": Answer or Handler}."""

    path: Path
    answers: dict[str, Answer | Handler] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)

    def __enter__(self) -> FakeEngine:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def requests(self, method: str, path: str) -> list[Received]:
        return [request for request in self.received if (request.method, request.path) == (method, path)]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        http = h11.Connection(h11.SERVER)
        with connection, contextlib.suppress(OSError):  # a client may leave at any time
            while self._one(connection, http):
                http.start_next_cycle()

    def _one(self, connection: socket.socket, http: h11.Connection) -> bool:
        request = self._receive(connection, http)
        if request is None:
            return False
        self.received.append(request)
        found = self.answers.get(f"{request.method} {request.path}")
        answer = found(request) if callable(found) else found
        if answer is None:
            answer = Answer({"message": f"page not found: {request.path}"}, 404)
        if answer.takeover is not None:
            connection.sendall(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
            answer.takeover(connection)
            return False
        body = (
            answer.raw if answer.raw is not None else b"" if answer.value is None else json.dumps(answer.value).encode()
        )
        sends_body = request.method != "HEAD" and answer.status not in (204, 304)
        length = len(body) + (1 if answer.cut else 0)
        head = h11.Response(status_code=answer.status, headers=[("Content-Length", str(length))])
        connection.sendall(http.send(head) or b"")
        connection.sendall(http.send(h11.Data(data=body)) or b"" if sends_body else b"")
        if answer.cut:
            return False
        connection.sendall(http.send(h11.EndOfMessage()) or b"")
        return True

    def _receive(self, connection: socket.socket, http: h11.Connection) -> Received | None:
        request: Received | None = None
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                try:
                    http.receive_data(connection.recv(1 << 16))
                except OSError:
                    return None
            elif isinstance(event, h11.Request):
                url = urlsplit(event.target.decode())
                headers = {name.decode().lower(): value.decode() for name, value in event.headers}
                query = parse_qs(url.query, keep_blank_values=True)
                request = Received(event.method.decode(), url.path, query, headers)
            elif isinstance(event, h11.Data) and request is not None:
                request.body += bytes(event.data)
            else:
                return request if isinstance(event, h11.EndOfMessage) else None
