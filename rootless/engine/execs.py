"""Execs: further processes of running containers. In memory alone, as docker's are; an engine that was restarted only
drains and forgets those of the one before."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from rootless.engine.container import Container
from rootless.engine.containers import DRAIN_SECONDS, Containers
from rootless.engine.detach import parse_keys
from rootless.engine.events import Events
from rootless.engine.link import Link
from rootless.engine.record import new_id
from rootless.engine.specification import exec_spec
from rootless.engine.starting import start_error
from rootless.engine.streams import Streams
from rootless.launcher import messages
from rootless.launcher.client import Launcher, LaunchFailure
from rootless.model import request_types
from rootless.model.errors import Conflict, NotFound, RootlessError
from rootless.model.request_types import check_types
from rootless.runtime.spec import ProcessSpec

NO_LAUNCHER = 125
KEPT_ENDED = 200  # execs that have ended and can still be inspected


@dataclass(eq=False)
class Exec:
    """One exec; `body` is its create request."""

    id: str
    container: Container
    body: dict[str, Any]
    process: ProcessSpec
    streams: Streams = field(default_factory=Streams)
    pid: int = 0
    running: bool = False
    started: bool = False
    exit_code: int | None = None
    exited: trio.Event = field(default_factory=trio.Event)
    finished: trio.Event = field(default_factory=trio.Event)

    def inspect(self) -> dict[str, Any]:
        """The shape of GET /exec/{id}/json."""
        args = self.process.args
        return {
            "ID": self.id,
            "Running": self.running,
            "ExitCode": self.exit_code,
            "ProcessConfig": {
                "tty": self.process.terminal,
                "entrypoint": args[0],
                "arguments": list(args[1:]),
                "privileged": bool(self.body.get("Privileged")),
                "user": self.process.user,
            },
            "OpenStdin": self.process.open_stdin,
            "OpenStderr": bool(self.body.get("AttachStderr")),
            "OpenStdout": bool(self.body.get("AttachStdout")),
            "CanRemove": self.exit_code is not None,
            "ContainerID": self.container.id,
            "DetachKeys": self.body.get("DetachKeys") or "",
            "Pid": self.pid,
        }


class Execs:
    """All execs of this engine."""

    def __init__(self, containers: Containers, events: Events, nursery: trio.Nursery) -> None:
        self._containers, self._events, self._nursery = containers, events, nursery
        self.link: Link = None  # type: ignore[assignment]  # set by the engine
        self.by_id: dict[str, Exec] = {}

    def create(self, container: Container, body: Mapping[str, Any]) -> Exec:
        """Raises Conflict (not running), InvalidParameter."""
        if not container.running:
            raise Conflict(f"container {container.id} is not running")
        check_types(body, request_types.EXEC)
        parse_keys(str(body.get("DetachKeys") or ""))
        linked = self._containers.networks.linked(container.record)
        made = Exec(new_id(), container, dict(body), exec_spec(container.record, body, linked))
        self.by_id[made.id] = made
        container.execs.add(made.id)
        self._trim()
        self._emit(made, "exec_create: " + " ".join(made.process.args))
        return made

    def _trim(self) -> None:
        ended = [e for e in self.by_id.values() if e.exit_code is not None]
        for old in ended[: max(0, len(ended) - KEPT_ENDED)]:
            del self.by_id[old.id]
            old.container.execs.discard(old.id)

    def find(self, exec_id: str) -> Exec:
        """Raises NotFound."""
        if (found := self.by_id.get(exec_id)) is not None and found.container.id in self._containers.by_id:
            return found
        raise NotFound(f"No such exec instance: {exec_id}")

    def check(self, made: Exec) -> None:
        """Whether it may be started. Raises Conflict."""
        if made.started:
            raise Conflict(f"exec {made.id} has already been started")
        if not made.container.running:
            raise Conflict(f"container {made.container.id} is not running")

    async def start(self, made: Exec, terminal_size: tuple[int, int] = (0, 0)) -> None:
        """Attach first: what it writes at once would be lost. Raises Conflict, StartError."""
        self.check(made)
        made.started = True
        process = made.process
        if terminal_size != (0, 0):
            process = ProcessSpec(**{**vars(process), "terminal_size": terminal_size})
        privileged = bool(made.body.get("Privileged"))
        try:
            launcher = await self.link.get()
            message = messages.StartExec(made.id, made.container.id, process, privileged)
            result, descriptors = await launcher.request(message)
        except LaunchFailure as failure:
            made.exit_code = failure.exit_code
            made.finished.set()
            raise start_error(failure, "exec failed: unable to start container process") from failure
        except RootlessError:  # no launcher: the client learns that from the stream, and asks for the exit code then
            made.exit_code = NO_LAUNCHER
            made.finished.set()
            raise
        made.pid, made.running = int(result["pid"]), True
        self._nursery.start_soon(self._live, made, dict(zip(result["names"], descriptors, strict=True)))
        self._emit(made, "exec_start: " + " ".join(made.process.args))

    async def _live(self, made: Exec, descriptors: dict[str, int]) -> None:
        made.streams.open(descriptors)
        async with trio.open_nursery() as nursery:
            done = trio.Event()

            async def pump() -> None:
                await made.streams.pump(None)
                done.set()

            nursery.start_soon(pump)
            await made.exited.wait()
            made.running, made.pid = False, 0  # known before the streams end: docker's client asks then
            with trio.move_on_after(DRAIN_SECONDS):
                await done.wait()
            nursery.cancel_scope.cancel()
        made.finished.set()
        self._emit(made, "exec_die", {"exitCode": str(made.exit_code)})
        with contextlib.suppress(RootlessError):
            await self.link.request(messages.Forget(made.id))

    async def exit_arrived(self, event: messages.Exited) -> None:
        made = self.by_id.get(event.process_id)
        if made is not None:
            made.exit_code = event.status
            made.exited.set()
        else:  # of an engine before
            with contextlib.suppress(RootlessError):
                await self.link.request(messages.Forget(event.process_id))

    async def adopt(self, launcher: Launcher, process_ids: Mapping[str, int]) -> None:
        """Drain the execs of an engine that is gone: nobody reads them, and they must not hang in a write."""
        for process_id in process_ids:
            if process_id in self.by_id:
                continue
            with contextlib.suppress(LaunchFailure):
                result, descriptors = await launcher.request(messages.Stdio(process_id))
                streams = Streams()
                streams.open(dict(zip(result["names"], descriptors, strict=True)))
                self._nursery.start_soon(streams.pump, None)

    async def launcher_gone(self) -> None:
        for made in self.by_id.values():
            if made.running:
                made.exit_code = 137
                made.exited.set()

    def _emit(self, made: Exec, action: str, more: Mapping[str, str] | None = None) -> None:
        attributes = {**made.container.attributes, "execID": made.id, **(more or {})}
        self._events.emit("container", action, made.container.id, attributes)
