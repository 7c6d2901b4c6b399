"""Signals to containers, from what they ask for to SIGKILL. What follows an end is done by whoever watches them
(`containers`)."""

from __future__ import annotations

import contextlib
import signal

import trio

from rootless.engine.container import Container
from rootless.engine.events import Events
from rootless.engine.link import Link
from rootless.engine.specification import signal_number
from rootless.launcher import messages
from rootless.launcher.client import LaunchFailure
from rootless.model.errors import Conflict, NotModified, RootlessError

KILL_SECONDS = 10.0
STOP_SECONDS = 10


class Stopping:
    def __init__(self, link: Link, events: Events) -> None:
        self._link, self._events = link, events

    async def stop(self, container: Container, seconds: int | None, signal_text: str = "") -> None:
        """The stop signal, then SIGKILL after `seconds` (-1: never). Raises NotModified."""
        if not container.running:
            raise NotModified("container already stopped")
        config = container.record.config
        number = signal_number(signal_text or config.get("StopSignal") or "SIGTERM")
        if seconds is None:
            seconds = int(config.get("StopTimeout", STOP_SECONDS))
        finished = container.finished
        await self._signal(container, number)
        with trio.move_on_after(seconds if seconds >= 0 else float("inf")):
            await finished.wait()
        if not finished.is_set():
            await self.end(container)
        self._events.emit("container", "stop", container.id, container.attributes)

    async def kill(self, container: Container, signal_text: str) -> None:
        """Raises Conflict (not running), InvalidParameter."""
        number = signal_number(signal_text or "SIGKILL")
        if not container.running:
            raise Conflict(f"cannot kill container: {container.name}: container {container.id} is not running")
        await self._signal(container, number)
        self._events.emit("container", "kill", container.id, {**container.attributes, "signal": str(number)})
        if number == signal.SIGKILL:
            with trio.move_on_after(KILL_SECONDS):
                await container.finished.wait()

    async def end(self, container: Container) -> None:
        """SIGKILL, and wait. Raises RootlessError where the kernel does not let it go."""
        finished = container.finished
        await self._signal(container, signal.SIGKILL)
        with trio.move_on_after(KILL_SECONDS) as scope:
            await finished.wait()
        if scope.cancelled_caught:
            raise RootlessError(
                f"container {container.name} did not end {KILL_SECONDS:.0f} s after SIGKILL: a process of it hangs in "
                "the kernel, perhaps on a network file system"
            )

    async def _signal(self, container: Container, number: int) -> None:
        with contextlib.suppress(LaunchFailure):  # it has just ended: the exit is on its way
            await self._link.request(messages.Signal(container.id, number))
