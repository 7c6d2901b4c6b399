"""The launcher's peers: engines, and who asks it to leave. Requests come in, replies and events are queued and never
waited for. Owned by `server`, which knows what requests mean."""

from __future__ import annotations

import collections
import os
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rootless.launcher import messages, wire
from rootless.launcher.loop import Loop

MAX_QUEUED = 10_000  # replies and events a peer may be behind with before it is cut off


class Connection:
    """A peer, and what it has not taken yet."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.queue: collections.deque[tuple[bytes, list[int]]] = collections.deque()


class Connections:
    """Accepts the user's own processes at `listener`. `handle(connection, request_id, request, descriptors)` is called
    for each request, as it came; it owns the descriptors, answers, and raises nothing."""

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        handle: Callable[[Connection, int, Mapping[str, Any], list[int]], None],
    ) -> None:
        self._loop, self._listener, self._handle = loop, listener, handle
        self._open: dict[int, Connection] = {}
        self.engine: Connection | None = None  # who gets the events

    def begin(self) -> None:
        self._loop.watch(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.getuid():
            sock.close()
            return
        sock.setblocking(False)
        connection = self._open[sock.fileno()] = Connection(sock)
        self._loop.watch(sock.fileno(), lambda: self._receive(connection))

    def _close(self, connection: Connection) -> None:
        self._loop.unwatch(connection.socket.fileno())
        del self._open[connection.socket.fileno()]
        if self.engine is connection:
            self.engine = None
        for _, descriptors in connection.queue:
            wire.close_all(descriptors)
        connection.socket.close()

    def _receive(self, connection: Connection) -> None:
        try:
            received = wire.receive(connection.socket)
        except BlockingIOError:
            return
        except (OSError, wire.BadMessage) as error:
            log(f"bad message: {error}")
            received = None
        if received is None:
            self._close(connection)
            return
        value, descriptors = received
        request_id = value.get("id")
        if not isinstance(request_id, int):
            wire.close_all(descriptors)
            self._close(connection)
            return
        self._handle(connection, request_id, value, descriptors)

    # ------------------------------------------------------------------------------------------------ sending
    def reply(
        self, connection: Connection, request_id: int, result: dict[str, object], fds: list[int] | None = None
    ) -> None:
        self._send(connection, wire.encode(messages.Reply(request_id, result)), fds or [])

    def refuse(
        self, connection: Connection, request_id: int, step: str, number: int, message: str, exit_code: int = 125
    ) -> None:
        self._send(connection, wire.encode(messages.Failure(request_id, step, number, message, exit_code)), [])

    def event(self, event: messages.Event) -> None:
        """To the engine, if there is one."""
        if self.engine is not None:
            self._send(self.engine, wire.encode(event), [])

    def _send(self, connection: Connection, data: bytes, descriptors: list[int]) -> None:
        """Queue a datagram; the descriptors are duplicated, the caller keeps its own."""
        if self._open.get(connection.socket.fileno()) is not connection:
            return
        if len(connection.queue) >= MAX_QUEUED:
            log("an engine does not read: cut off")
            self._close(connection)
            return
        connection.queue.append((data, [os.dup(fd) for fd in descriptors]))
        self._flush(connection)

    def _flush(self, connection: Connection) -> None:
        while connection.queue:
            data, descriptors = connection.queue[0]
            try:
                wire.send(connection.socket, data, descriptors)
            except BlockingIOError:
                break
            except OSError:
                return  # the reader will see its end
            connection.queue.popleft()
            wire.close_all(descriptors)
        more = (lambda: self._flush(connection)) if connection.queue else None
        self._loop.when_writable(connection.socket.fileno(), more)


def log(text: str) -> None:
    """To standard error, which is the launcher's log."""
    sys.stderr.write(f"launcher: {text}\n")
    sys.stderr.flush()
