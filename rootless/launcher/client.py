"""The engine's end of the launcher's socket, for trio.

One task (`run`) reads; a request is a datagram out and an awaited reply. Events come over a memory channel."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import trio

from rootless.launcher import messages, wire
from rootless.model.errors import RootlessError


class LauncherGone(RootlessError):
    """The launcher has died or was never there; its containers are gone with it."""


class LaunchFailure(RootlessError):
    """The launcher's Failure, as an exception."""

    def __init__(self, step: str, number: int, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.step = step
        self.errno = number
        self.exit_code = exit_code


class Launcher:
    """Use `connect`, start `run` in a nursery, then `request`."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock  # non-blocking; trio only waits for it, wire does the rest
        self._next_id = 1
        self._waiting: dict[int, tuple[trio.Event, list[tuple[Mapping[str, Any], list[int]]]]] = {}
        self._send_lock = trio.Lock()
        self._event_in, self.events = trio.open_memory_channel[messages.Event](1000)
        self._gone = False

    @classmethod
    async def connect(cls, path: Path) -> Launcher:
        """Raises LauncherGone where nobody listens."""
        await trio.lowlevel.checkpoint()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(str(path))
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            raise LauncherGone(f"no launcher at {path}: {error.strerror}") from error
        return cls(sock)

    async def run(self) -> None:
        """Read until the launcher goes; then `events` ends and every open request raises LauncherGone."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._socket.fileno())
                try:
                    received = wire.receive(self._socket)
                except BlockingIOError:
                    continue
                if received is None:
                    return
                value, descriptors = received
                await self._take(value, descriptors)
        except (OSError, wire.BadMessage):
            return
        finally:
            self.close()

    async def _take(self, value: Mapping[str, Any], descriptors: list[int]) -> None:
        if value["type"] in ("Reply", "Failure"):
            waiting = self._waiting.pop(int(value["id"]), None)
            if waiting is None:  # the one who asked was cancelled
                wire.close_all(descriptors)
                return
            waiting[1].append((value, descriptors))
            waiting[0].set()
            return
        wire.close_all(descriptors)
        fields = {name: item for name, item in value.items() if name != "type"}
        kind = {"Exited": messages.Exited, "Died": messages.Died}.get(value["type"])
        if kind is not None:
            await self._event_in.send(kind(**fields))

    async def request(
        self, message: messages.Request, descriptors: Sequence[int] = ()
    ) -> tuple[dict[str, Any], list[int]]:
        """Send, await, return (result, descriptors; the caller's to close). Raises LaunchFailure, LauncherGone."""
        if self._gone:
            raise LauncherGone("the launcher has died")
        request_id = self._next_id
        self._next_id += 1
        arrived = trio.Event()
        answers: list[tuple[Mapping[str, Any], list[int]]] = []
        self._waiting[request_id] = arrived, answers
        data = wire.encode(message, id=request_id)
        try:
            async with self._send_lock:
                while True:
                    try:
                        wire.send(self._socket, data, descriptors)
                        break
                    except BlockingIOError:
                        await trio.lowlevel.wait_writable(self._socket.fileno())
            await arrived.wait()
        except OSError as error:
            raise LauncherGone(f"the launcher has died: {error.strerror}") from error
        finally:
            self._waiting.pop(request_id, None)
        if not answers:
            raise LauncherGone("the launcher has died")
        value, received = answers[0]
        if value["type"] == "Failure":
            wire.close_all(received)
            raise LaunchFailure(value["step"], value["errno"], value["message"], value["exit_code"])
        return dict(value["result"]), received

    def close(self) -> None:
        """Idempotent."""
        if not self._gone:
            self._gone = True
            self._event_in.close()
            trio.lowlevel.notify_closing(self._socket.fileno())
            self._socket.close()
            for arrived, _ in self._waiting.values():
                arrived.set()
            self._waiting.clear()
