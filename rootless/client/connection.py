"""One connection to the engine: requests out, responses and streams in, with h11; and the hijack of attach and exec.

A connection carries one request at a time and is used again where the response allows. Errors of the API are raised as
ApiError, in one place (`Response.checked`)."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import h11

from rootless.model.errors import RootlessError

READ_BYTES = 256 << 10
JSON_HEADERS = {"Content-Type": "application/json"}


class ApiError(RootlessError):
    """The engine refused: `status` is HTTP's, the message the engine's own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ConnectionLost(RootlessError):
    """The engine went away in the middle of a conversation."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or "lost the connection to the engine: it has stopped or was killed")


class NotTaken(ConnectionLost):
    """The engine went away before it had read the request, which may be sent again: nothing has come of it."""


class Hijacked:
    """The raw stream that a connection has become."""

    def __init__(self, stream: socket.socket, early: bytes, multiplexed: bool) -> None:
        self._socket = stream
        self._early = early
        self.multiplexed = multiplexed

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def early(self) -> bool:
        """Whether bytes are at hand that came with the response: poll(2) knows nothing of those."""
        return bool(self._early)

    def receive(self) -> bytes:
        """The next bytes, b"" at the end. Raises ConnectionLost, BlockingIOError."""
        if self._early:
            early, self._early = self._early, b""
            return early
        try:
            return self._socket.recv(READ_BYTES)
        except (ConnectionError, TimeoutError) as error:
            raise ConnectionLost from error

    def send_some(self, data: bytes | memoryview) -> int:
        """Send what the socket takes now, 0 where it takes nothing. Raises BrokenPipeError, ConnectionResetError."""
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0

    def close_write(self) -> None:
        """Tell the engine that nothing follows."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self._socket.close()


class Response:
    """A response whose body is still to be read."""

    def __init__(self, connection: Connection, status: int, headers: Mapping[str, str]) -> None:
        self._connection = connection
        self.status = status
        self.headers = headers

    def chunks(self) -> Iterator[bytes]:
        """The body, as it comes. Raises ConnectionLost."""
        while (data := self._connection.body()) is not None:
            yield data

    def read(self) -> bytes:
        return b"".join(self.chunks())

    def json(self) -> Any:
        """The body as JSON; None where it is empty. Raises RootlessError where it is something else."""
        text = self.read()
        if not text.strip():
            return None
        try:
            return json.loads(text)
        except ValueError as error:
            raise RootlessError(f"the engine answered with something that is not JSON: {text[:200]!r}") from error

    def json_lines(self) -> Iterator[Any]:
        """A body that is a sequence of JSON values, one a line (pull, events). Raises ConnectionLost."""
        rest = b""
        for data in self.chunks():
            *lines, rest = (rest + data).split(b"\n")
            yield from (json.loads(line) for line in lines if line.strip())
        if rest.strip():
            yield json.loads(rest)

    def checked(self) -> Response:
        """This response. Raises ApiError where its status is one of an error."""
        if self.status < 400:
            return self
        text = self.read().decode(errors="replace").strip()
        try:
            message = str(json.loads(text)["message"])
        except (ValueError, KeyError, TypeError):
            message = text or f"the engine answered with status {self.status} and no message"
        raise ApiError(self.status, message)


class Connection:
    """A connected socket and the state of HTTP on it. Raises OSError where it cannot connect."""

    def __init__(self, socket_path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(socket_path)
        except OSError:
            self._socket.close()
            raise
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        self._repeatable = False  # a request is out, whole and in one piece, and nothing has come back

    @property
    def idle(self) -> bool:
        """Whether a request may be sent now."""
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        return self._h11.states == {h11.CLIENT: h11.IDLE, h11.SERVER: h11.IDLE}

    @property
    def early(self) -> bool:
        """Whether bytes of the response's body have come with its head: poll(2) knows nothing of those."""
        return bool(self._h11.trailing_data[0])

    def fileno(self) -> int:
        return self._socket.fileno()

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
    ) -> Response:
        """Send a request, wait for the head of its response. An iterable body is sent in chunks.

        Raises NotTaken, ConnectionLost; ApiError never."""
        self.send_request(method, target, headers, body)
        return self.response()

    def send_request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
    ) -> None:
        """Send a request and do not wait: `response` does. Raises ConnectionLost."""
        all_headers = {"Host": "docker", "User-Agent": "rootless", **(headers or {})}
        pieces: Iterable[bytes] = ()
        if isinstance(body, bytes):
            all_headers["Content-Length"] = str(len(body))
            pieces = (body,)
        elif body is not None:
            all_headers["Transfer-Encoding"] = "chunked"
            pieces = body
        elif method in ("POST", "PUT"):
            all_headers["Content-Length"] = "0"
        head = h11.Request(method=method, target=target, headers=list(all_headers.items()))
        data = self._h11.send(head) or b""
        self._repeatable = body is None or isinstance(body, bytes)
        try:
            for piece in pieces:
                if piece:
                    self._socket.sendall(data + (self._h11.send(h11.Data(data=piece)) or b""))
                    data = b""
            self._socket.sendall(data + (self._h11.send(h11.EndOfMessage()) or b""))
        except ConnectionError:
            return  # the engine may have answered before it stopped reading: `response` sees

    def response(self) -> Response:
        """The head of the response to what was sent. Raises ConnectionLost."""
        while True:
            event = self._next_event()
            if isinstance(event, h11.InformationalResponse) and event.status_code != 101:
                continue
            if isinstance(event, h11.Response | h11.InformationalResponse):
                headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in event.headers}
                return Response(self, event.status_code, headers)
            raise ConnectionLost

    def hijack(self, target: str, body: bytes | None = None) -> Hijacked:
        """POST, and take the connection over. Raises ApiError, ConnectionLost."""
        upgrade = {"Connection": "Upgrade", "Upgrade": "tcp"}
        response = self.request("POST", target, upgrade | (JSON_HEADERS if body else {}), body)
        if response.status != 101:
            response.checked()
        early = bytes(self._h11.trailing_data[0])
        kind = response.headers.get("content-type", "")
        return Hijacked(self._socket, early, kind == "application/vnd.docker.multiplexed-stream")

    def body(self) -> bytes | None:
        """The next piece of the response's body, None at its end. Raises ConnectionLost."""
        if self._h11.their_state is not h11.SEND_BODY:
            return None
        event = self._next_event()
        return bytes(event.data) if isinstance(event, h11.Data) else None

    def close(self) -> None:
        self._socket.close()

    def _next_event(self) -> object:
        try:
            while True:
                event = self._h11.next_event()
                if event is not h11.NEED_DATA:
                    return event
                data = self._socket.recv(READ_BYTES)
                self._repeatable = False
                self._h11.receive_data(data)
        except ConnectionResetError as error:
            # unix_release_sock() resets only where what we sent was never read, or the connection never accepted
            raise (NotTaken if self._repeatable else ConnectionLost) from error
        except (h11.RemoteProtocolError, ConnectionError) as error:
            raise ConnectionLost from error
