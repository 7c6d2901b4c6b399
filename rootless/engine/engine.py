"""The engine: its parts, its start, its end. One per user; state on disk is the truth: it may be killed at any moment.

Called by `engine.__main__`; the API's handlers get it and use its parts."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any

import trio

from rootless import __version__
from rootless.engine.browsing import Browsing
from rootless.engine.container import Container
from rootless.engine.container_files import ContainerFiles
from rootless.engine.containers import Containers
from rootless.engine.events import Events
from rootless.engine.execs import Execs
from rootless.engine.link import Link
from rootless.engine.networks import Networks
from rootless.engine.shapes import command_line
from rootless.engine.stopping import Stopping
from rootless.engine.storage import Storage
from rootless.engine.volumes import Volumes
from rootless.images.committing import CommitRequest, check, commit_layer
from rootless.images.images import Images
from rootless.launcher import messages
from rootless.launcher.client import Launcher
from rootless.launcher.spawn import listens
from rootless.model.errors import Conflict, RootlessError
from rootless.settings import Settings

TIDY_AFTER_SECONDS = 0.5


class Engine:
    """`prepare()` first; then the API may be served until `leaving` is set."""

    def __init__(self, settings: Settings, nursery: trio.Nursery, starting: subprocess.Popen[bytes] | None) -> None:
        self.settings = settings
        self.started_at = time.time()
        self.leaving = trio.Event()
        self.clients = 0  # API connections open
        self.last_use = trio.current_time()
        self.events = Events()
        self.images = Images(settings, self._given_up)
        self.volumes = Volumes(settings)
        self.containers = Containers(settings, self.images, self.volumes, self.events, nursery)
        self.execs = Execs(self.containers, self.events, nursery)
        self.link = Link(settings, nursery, self._hello, self._exited, self._gone, starting)
        self.networks = Networks(settings, self.link, self.events)
        self.networks.find = self.containers.find
        self.storage = self.containers.storage = Storage(settings, self.link)
        self.browsing = Browsing(settings, self.images, self.containers.records, self.link)
        self.files = ContainerFiles(self.images, self.containers.records, self.link, self.storage)
        self.containers.link = self.execs.link = self.link
        self.containers.networks = self.networks
        self.containers.stopping = Stopping(self.link, self.events)
        self.nursery = nursery
        self._launcher_was_there = starting is None

    async def prepare(self) -> None:
        """Read the state; take over what runs. Raises RootlessError, OSError."""
        await self.images.prepare()
        self.images.resume_lazy(self.nursery, mounted=self._launcher_was_there)
        await trio.to_thread.run_sync(self.containers.load)
        self.nursery.start_soon(self._tidy)
        if self._launcher_was_there and await trio.to_thread.run_sync(listens, self.settings):
            await self.link.get()
        else:
            await self.containers.launcher_gone()
            self.nursery.start_soon(self._start_launcher)

    async def _tidy(self) -> None:
        """When the command that started us has had its answer."""
        await trio.sleep(TIDY_AFTER_SECONDS)
        await self.images.tidy()

    async def _start_launcher(self) -> None:
        """Ahead of its first use. A failure is told to whoever needs it."""
        try:
            await self.storage.in_force()
            if self.containers.records.discarded() or self.volumes.discarded():
                await self.containers.empty_trash()
        except RootlessError:
            return

    def _given_up(self, image: str, why: str) -> None:
        self.events.emit("image", "pull-failed", image, {"name": image, "error": why})

    async def _hello(self, launcher: Launcher, hello: dict[str, Any]) -> None:
        await self.containers.adopt(launcher, hello)
        await self.networks.adopt_endpoints(launcher, hello["endpoints"])
        await self.execs.adopt(launcher, hello["execs"])

    async def _exited(self, event: messages.Exited) -> None:
        if not self.containers.exit_arrived(event):
            await self.execs.exit_arrived(event)

    async def _gone(self) -> None:
        await self.execs.launcher_gone()
        await self.containers.launcher_gone()

    async def commit(self, container: Container, request: CommitRequest, *, pause: bool) -> str:
        """An image of what a container wrote; returns its id. `pause`: its processes stand still meanwhile.

        Raises InvalidParameter, Conflict, RootlessError."""
        check(request, container.record.config)
        base = self.images.resolve(container.record.image_id)
        async with self.files.work(container, "layer", freeze=pause) as work:
            return await commit_layer(
                self.images.layout,
                base,
                work.chunks(),
                request,
                container.record.config,
                command_line(container.record.args),
            )

    # ------------------------------------------------------------------------------------------------ the end
    async def leave_when_idle(self) -> None:
        """Set `leaving` after idle_seconds without containers, clients or work."""
        limit = self.settings.idle_seconds
        while limit:
            if self.clients or self.containers.busy or self.images.coming:
                self.last_use = trio.current_time()
            left = self.last_use + limit - trio.current_time()
            if left <= 0:
                await self.stop(force=False)
                return
            await trio.sleep(max(0.05, min(left, limit / 4)))

    async def stop(self, *, force: bool) -> None:
        """End the launcher too, and leave. Raises Conflict while containers run, unless `force` (they are killed)."""
        running = [container.name for container in self.containers.by_id.values() if container.running]
        if running and not force:
            what = "a container is running" if len(running) == 1 else f"{len(running)} containers are running"
            raise Conflict(f"{what} ({', '.join(sorted(running)[:5])}): stop it first, or force (system stop -f)")
        for name in running:
            await self.containers.stopping.stop(self.containers.find(name), 0)
        if self.link.launcher is not None:
            try:
                await self.link.request(messages.Shutdown(force=force))
            except RootlessError:
                pass  # it leaves as we ask
        self.leaving.set()

    def status(self) -> dict[str, Any]:
        """GET /rootless/status."""
        return {
            "EnginePid": os.getpid(),
            "LauncherPid": self.link.hello.get("pid", 0) if self.link.launcher is not None else 0,
            "Version": __version__,
            "Socket": str(self.settings.api_socket),
            "StateRoot": str(self.settings.state_root),
            "DataRoot": str(self.settings.data_root),
            "ContainersRunning": sum(container.running for container in self.containers.by_id.values()),
            "Clients": self.clients,
            "Uptime": round(time.time() - self.started_at, 3),
            "IdleSeconds": self.settings.idle_seconds,
        }
