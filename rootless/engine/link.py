"""The engine's connection to its launcher: made or started when first needed, made again when the launcher died.

Calls back into `containers` for what the launcher tells: Hello's list at each new connection, exits, its own end."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from rootless import __version__
from rootless.launcher import messages
from rootless.launcher.client import Launcher, LauncherGone
from rootless.launcher.spawn import await_launcher, spawn_launcher
from rootless.settings import Settings


class Link:
    """`get()` gives a launcher that works. `on_hello(result)` runs before anybody else can use a new connection,
    `on_exit(event)` for every exit, `on_gone()` when a launcher has died."""

    def __init__(
        self,
        settings: Settings,
        nursery: trio.Nursery,
        on_hello: Callable[[Launcher, dict[str, Any]], Awaitable[None]],
        on_exit: Callable[[messages.Exited], Awaitable[None]],
        on_gone: Callable[[], Awaitable[None]],
        starting: subprocess.Popen[bytes] | None,
    ) -> None:
        self._settings = settings
        self._nursery = nursery
        self._on_hello, self._on_exit, self._on_gone = on_hello, on_exit, on_gone
        self._starting = starting  # a launcher that main() has started before anything was imported
        self._lock = trio.Lock()
        self.launcher: Launcher | None = None
        self.hello: dict[str, Any] = {}
        self._images: dict[str, str] = {}
        self._networks: set[str] = set()

    async def get(self) -> Launcher:
        """Raises RootlessError where it cannot be started."""
        if self.launcher is not None:
            return self.launcher
        async with self._lock:
            if self.launcher is None:
                self.launcher = await self._connect()
            return self.launcher

    async def _connect(self) -> Launcher:
        try:
            launcher = await Launcher.connect(self._settings.launcher_socket)
        except LauncherGone:
            started, self._starting = self._starting, None
            if started is None:
                started = spawn_launcher(self._settings)
            await trio.to_thread.run_sync(await_launcher, self._settings, started)
            launcher = await Launcher.connect(self._settings.launcher_socket)
        self._nursery.start_soon(self._run, launcher)
        self.hello, _ = await launcher.request(messages.Hello(__version__))
        self._images = dict(self.hello["images"])
        self._networks = set(self.hello["networks"])
        await self._on_hello(launcher, self.hello)
        return launcher

    async def _run(self, launcher: Launcher) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._events, launcher)
            await launcher.run()
        if self.launcher is launcher:
            self.launcher = None
        await self._on_gone()

    async def _events(self, launcher: Launcher) -> None:
        async for event in launcher.events:
            if isinstance(event, messages.Exited):
                await self._on_exit(event)
            elif event.given_up:  # the next container that needs it gets a new one
                self._images.pop(event.key, None) if event.kind == "image" else self._networks.discard(event.key)

    # ------------------------------------------------------------------------------------------------ requests
    async def request(self, message: messages.Request, descriptors: Sequence[int] = ()) -> dict[str, Any]:
        """A request that is answered without descriptors. Raises LaunchFailure, LauncherGone."""
        launcher = await self.get()
        result, _ = await launcher.request(message, descriptors)
        return result

    async def mounted(self, message: messages.MountImage) -> str:
        """The path where an image is mounted."""
        await self.get()
        path = self._images.get(message.key)
        if path is None:
            path = self._images[message.key] = str((await self.request(message))["path"])
        return path

    async def unmount(self, key: str) -> None:
        if self._images.pop(key, None) is not None and self.launcher is not None:
            await self.request(messages.UnmountImage(key))

    async def network_started(self, network_id: str, config: dict[str, object]) -> None:
        await self.get()
        if network_id not in self._networks:
            await self.request(messages.StartNetwork(network_id, config))
            self._networks.add(network_id)

    @property
    def networks(self) -> tuple[str, ...]:
        """Ids of those that run."""
        return tuple(self._networks) if self.launcher is not None else ()

    async def network_stopped(self, network_id: str) -> None:
        if network_id in self._networks:
            self._networks.discard(network_id)
            if self.launcher is not None:
                await self.request(messages.StopNetwork(network_id))
