"""All containers of the engine: made, started, watched, removed. State on disk is the truth.

One task a running container (`_live`): pumps its streams, waits for its exit, writes the end down, removes it if asked.
Called by the API's handlers, and by `link` with what the launcher tells."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from rootless.engine import creation, etc_files
from rootless.engine.container import Container
from rootless.engine.events import Events
from rootless.engine.link import Link
from rootless.engine.logs import LogWriter
from rootless.engine.network_device import device_problem
from rootless.engine.networks import Networks
from rootless.engine.record import Record, Records, State, new_id, new_name
from rootless.engine.specification import container_spec
from rootless.engine.starting import Start
from rootless.engine.stopping import Stopping
from rootless.engine.storage import Storage
from rootless.engine.volumes import Volumes
from rootless.images.image import Image
from rootless.images.images import Images
from rootless.launcher import messages
from rootless.launcher.client import Launcher, LauncherGone, LaunchFailure
from rootless.model import clock, request_types, states
from rootless.model.endpoints import CONTAINER
from rootless.model.errors import Conflict, InvalidParameter, NotFound, NotModified, RootlessError, StartError
from rootless.model.networks import Network
from rootless.model.platforms import Platform, mismatch
from rootless.model.request_types import check_types
from rootless.settings import Settings

DRAIN_SECONDS = 2.0  # for output after the exit: other holders of the pipe must not keep a container alive


class Containers:
    """`load()` first."""

    def __init__(
        self, settings: Settings, images: Images, volumes: Volumes, events: Events, nursery: trio.Nursery
    ) -> None:
        self._settings = settings
        self._images, self._volumes, self._events, self._nursery = images, volumes, events, nursery
        self.records = Records(settings.state_root)
        self.by_id: dict[str, Container] = {}
        self.link: Link = None  # type: ignore[assignment]  # set by the engine: the two know each other
        self.networks: Networks = None  # type: ignore[assignment]
        self.storage: Storage = None  # type: ignore[assignment]
        self.stopping: Stopping = None  # type: ignore[assignment]
        self._deleting = 0

    def load(self) -> None:
        """Blocking. Raises OSError."""
        self.records.prepare()
        self.networks.store.load()
        for record, state in self.records.load():
            self.by_id[record.id] = Container(record, state)
            if state.status == states.RUNNING:
                self.networks.adopt(self.by_id[record.id])
        self._images.uses.put_right({c.id: c.record.image_id for c in self.by_id.values()})

    # ------------------------------------------------------------------------------------------------ finding
    def find(self, text: str) -> Container:
        """By id, name, or a prefix of the id. Raises NotFound, InvalidParameter in docker's words."""
        wanted = text.removeprefix("/")
        if (container := self.by_id.get(wanted)) is not None:
            return container
        for container in self.by_id.values():
            if container.name == wanted:
                return container
        matching = [container for id_, container in self.by_id.items() if wanted and id_.startswith(wanted)]
        if len(matching) > 1:
            raise InvalidParameter(f"multiple IDs found with provided prefix: {text}")
        if not matching:
            raise NotFound(f"No such container: {text}")
        return matching[0]

    @property
    def busy(self) -> bool:
        return self._deleting > 0 or any(container.running for container in self.by_id.values())

    # ------------------------------------------------------------------------------------------------ making
    async def create(
        self, body: Mapping[str, Any], name: str, platform: Platform | None = None
    ) -> tuple[str, list[str]]:
        """(id, warnings). Raises NotFound (image, or it is of another platform), Conflict (name), InvalidParameter."""
        check_types(body, request_types.CONTAINER)
        if name:
            name = name.removeprefix("/")
            creation.check_name(name)
        image_name = str(body.get("Image") or "")
        if not image_name:
            raise InvalidParameter("no image specified")
        image = self._images.resolve_for(image_name, platform)
        container_id = new_id()
        await self._images.use(container_id, image)  # the last await: names are checked and taken in one go
        try:
            record, warnings = self._make(body, name, image, container_id)
        except BaseException:
            self._images.uses.remove(container_id)
            raise
        container = self.by_id[record.id] = Container(record, State())
        self._events.emit("container", "create", record.id, container.attributes)
        if record.endpoints and not {"host", "none"} & set(record.endpoints) and (problem := device_problem()):
            warnings.append(problem)
        warnings += [*self.networks.warnings(record), *self._images.warnings(image)]
        if platform is None:
            warnings += mismatch(image.platform)
        return record.id, [*warnings, *await self._id_warnings()]

    def _make(self, body: Mapping[str, Any], name: str, image: Image, container_id: str) -> tuple[Record, list[str]]:
        taken = {container.name: container.id for container in self.by_id.values()}
        if name in taken:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{taken[name]}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        endpoints = self.networks.endpoints(body)
        with self._volumes.making() as volumes:
            record, warnings = creation.make_record(
                body,
                image.process_config,
                container_id=container_id,
                name=name or new_name(taken),
                created=clock.rfc3339(time.time_ns()),
                image_id=image.id,
                endpoints=endpoints,
                volume_path=volumes.path,
                new_volume=volumes.new,
            )
            self.records.add(record)
        return record, warnings

    async def _id_warnings(self) -> list[str]:
        await self.link.get()
        reason = self.link.hello.get("single_id_reason")
        return (
            [f"only one user id is available ({reason}): everything runs as root, see rootless info"] if reason else []
        )

    async def rename(self, container: Container, name: str) -> None:
        import dataclasses

        name = name.removeprefix("/")
        creation.check_name(name)
        if any(other.name == name for other in self.by_id.values()):
            raise Conflict(f'Conflict. The container name "/{name}" is already in use.')
        before = container.name
        container.record = dataclasses.replace(container.record, name=name)
        self.records.save(container.record)
        await self.networks.renamed(container, before)
        self._events.emit("container", "rename", container.id, container.attributes)

    # ------------------------------------------------------------------------------------------------ starting
    async def start(self, container: Container) -> None:
        """Raises NotModified, Conflict, StartError, NotFound (image gone)."""
        async with container.lock:
            following = states.follow(container.state.status, "start", container.name)
            try:
                await self._start(container, following)
            except RootlessError as error:
                self._start_failed(container, error)
                raise
        self._events.emit("container", "start", container.id, container.attributes)

    async def _start(self, container: Container, following: str) -> None:
        record = container.record
        directory = self.records.directory(container.id)
        image = self._images.resolve(record.image_id)
        neighbour = self._network_of(record)
        async with Start(self.link, self.networks, container) as start:
            driver = await self.storage.driver(record)
            lower = await start.lower(await self._images.sound_source(image), driver)
            joined, guests = await start.network()
            bound = await start.bind(joined)
            if neighbour is None:
                etc_files.write(directory, etc_files.texts(record, joined, self._settings))
            start.check_sources()
            container.begin_run()
            shared = neighbour.record if neighbour else None
            linked = self.networks.linked(record)
            result, descriptors = await start.launch(container_spec(record, lower, directory, guests, shared, linked))
            state = container.state = State(
                status=following,
                pid=int(result["pid"]),
                started_at=clock.rfc3339(time.time_ns()),
                ports=[port.row for port in bound],
                driver=driver,
            )
            self.networks.write_down(container, joined)
            self._nursery.start_soon(self._live, container, dict(zip(result["names"], descriptors, strict=True)))
            start.succeeded = True
            self.records.save_state(container.id, state)
            try:
                await self.networks.ports.publish(joined, bound)
                await self.networks.names_changed()
            except LaunchFailure as failure:
                await self.stopping.end(container)
                raise StartError(f"cannot publish the ports of {container.name}: {failure}") from failure

    def _network_of(self, record: Record) -> Container | None:
        """The container whose network namespace it shares (--network container:…). Raises Conflict, NotFound."""
        mode = record.host_config["NetworkMode"]
        if not mode.startswith(CONTAINER):
            return None
        other = self.find(mode.removeprefix(CONTAINER))
        if not other.running:
            raise Conflict(f"cannot join network of a non running container: {other.id}")
        return self._network_of(other.record) or other

    # ------------------------------------------------------------------------------------------------ networks
    async def connect(self, text: str, network: Network, settings: Mapping[str, Any]) -> None:
        """Raises RootlessError, and nothing has changed then."""
        await self._change_network(text, lambda c: self.networks.connect(c, network, settings))

    async def disconnect(self, text: str, network: Network, *, force: bool) -> None:
        """Raises RootlessError; where it has left and its ports are not free on its new way out, too."""
        await self._change_network(text, lambda c: self.networks.disconnect(c, network, force=force))

    async def _change_network(self, text: str, change: Callable[[Container], Awaitable[None]]) -> None:
        container = self.find(text)
        async with container.lock:
            directory = self.records.directory(container.id)
            memberships = self.networks.memberships
            joined = memberships.by_container.get(container.id)
            before = etc_files.texts(container.record, joined, self._settings) if joined else {}
            try:
                await change(container)
            finally:  # it may have left a network and not found its ports free on the next
                self.records.save(container.record)
                if container.running:
                    self.records.save_state(container.id, container.state)
                    now = memberships.by_container.get(container.id)
                    if now is not None:
                        etc_files.rewrite(directory, before, etc_files.texts(container.record, now, self._settings))

    def _start_failed(self, container: Container, error: RootlessError) -> None:
        """Whoever is attached or waits is told: there will be no output and no exit."""
        if container.running or container.id not in self.by_id:
            return
        code = error.exit_code if isinstance(error, StartError) else 128
        container.state.exit_code, container.state.error = code, str(error)
        container.streams.close()
        container.end_run()
        if container.record.host_config["AutoRemove"]:
            self._discard(container, volumes=True)
        else:
            self.records.save_state(container.id, container.state)

    async def _live(self, container: Container, descriptors: dict[str, int]) -> None:
        """From the start to the end of one run."""
        log = container.log = LogWriter(self.records.directory(container.id) / "log.json", time.time_ns)
        container.streams.open(descriptors)
        try:
            async with trio.open_nursery() as nursery:
                done = trio.Event()

                async def pump() -> None:
                    await container.streams.pump(log)
                    done.set()

                nursery.start_soon(pump)
                await container.exited.wait()
                with trio.move_on_after(DRAIN_SECONDS):
                    await done.wait()
                nursery.cancel_scope.cancel()
        finally:
            container.log = None
            log.close()
        with trio.CancelScope(shield=True):
            await self._ended(container)

    async def _ended(self, container: Container) -> None:
        status, finished_at = container.exit_status or (137, time.time())
        state = container.state
        state.status = states.follow(state.status, "exit", container.name)
        state.pid, state.exit_code = 0, status
        state.finished_at = clock.rfc3339(int(finished_at * 1e9))
        self.networks.ports.released(state.ports)
        state.ports, state.networks, state.interfaces = [], {}, {}
        automatic = bool(container.record.host_config["AutoRemove"])
        if not automatic:  # else its removal says it all
            with contextlib.suppress(OSError):
                self.records.save_state(container.id, state)
        self.networks.release(container.id)
        self._events.emit("container", "die", container.id, {**container.attributes, "exitCode": str(status)})
        container.end_run()
        if automatic:
            async with container.lock:
                with contextlib.suppress(RootlessError):
                    self._discard(container, volumes=True)
        with contextlib.suppress(RootlessError):
            await self.link.request(messages.Forget(container.id))

    async def restart(self, container: Container, seconds: int | None, signal_text: str = "") -> None:
        with contextlib.suppress(NotModified):
            await self.stopping.stop(container, seconds, signal_text)
        await self.start(container)
        self._events.emit("container", "restart", container.id, container.attributes)

    # ------------------------------------------------------------------------------------------------ removing
    async def remove(self, container: Container, *, force: bool, volumes: bool) -> None:
        """Raises Conflict in docker's words."""
        if force and container.running:
            await self.stopping.end(container)
        async with container.lock:
            if container.id in self.by_id:
                self._discard(container, volumes=volumes)

    def _discard(self, container: Container, *, volumes: bool) -> None:
        container.state.status = states.follow(container.state.status, "remove", container.name)
        self.records.discard(container.id)
        del self.by_id[container.id]
        self._images.uses.remove(container.id)
        if volumes:
            self._volumes.remove_anonymous(container.record)
        self._events.emit("container", "destroy", container.id, container.attributes)
        container.removed.set()
        self._nursery.start_soon(self.empty_trash)

    async def empty_trash(self) -> None:
        """Delete the files of removed containers; some belong to subordinate ids, so the launcher does it."""
        self._deleting += 1
        try:
            for path in (*self.records.discarded(), *self._volumes.discarded()):
                with contextlib.suppress(RootlessError):
                    await self.link.request(messages.RemoveTree(str(path)))
        finally:
            self._deleting -= 1

    # ------------------------------------------------------------------------------------------------ the launcher's
    async def adopt(self, launcher: Launcher, hello: Mapping[str, Any]) -> None:
        """A new connection: what runs is ours again, what ended meanwhile has its exit, what is gone was killed."""
        exits = {row["process_id"]: row for row in hello["exits"]}
        for container in list(self.by_id.values()):
            pid = hello["containers"].get(container.id)
            if pid is None and container.id not in exits:
                if container.running and not container.exited.is_set():
                    self._lost(container)
                continue
            if container.log is not None:
                continue  # known to this engine already
            result, descriptors = await launcher.request(messages.Stdio(container.id))
            container.begin_run()
            state = container.state
            if not container.running:  # the engine died between the start and its writing down
                state.status, state.pid, state.error = states.RUNNING, int(pid or 0), ""
                state.started_at = clock.rfc3339(time.time_ns())
                self.records.save_state(container.id, state)
            self._nursery.start_soon(self._live, container, dict(zip(result["names"], descriptors, strict=True)))
            if (row := exits.get(container.id)) is not None:
                container.exit_status = row["status"], row["finished_at"]
                container.exited.set()
        for process_id, row in exits.items():
            if process_id not in self.by_id:
                with contextlib.suppress(LaunchFailure, LauncherGone):
                    await launcher.request(messages.Forget(row["process_id"]))

    def exit_arrived(self, event: messages.Exited) -> bool:
        """False: not a container of ours."""
        container = self.by_id.get(event.process_id)
        if container is None:
            return False
        container.exit_status = event.status, event.finished_at
        container.exited.set()
        return True

    async def launcher_gone(self) -> None:
        """The launcher has died, and every container with it."""
        for container in list(self.by_id.values()):
            if container.running:
                if container.log is None:
                    self._lost(container)
                else:
                    container.exit_status = 137, time.time()
                    container.exited.set()

    def _lost(self, container: Container) -> None:
        """It was running when its launcher died without this engine seeing it (a reboot, say)."""
        state = container.state
        state.status, state.pid, state.exit_code = states.EXITED, 0, 137
        state.error = "the launcher of this container has died"
        state.finished_at = clock.rfc3339(time.time_ns())
        state.ports, state.networks, state.interfaces = [], {}, {}
        self.networks.release(container.id)
        self.records.save_state(container.id, state)
        if container.record.host_config["AutoRemove"]:
            self._discard(container, volumes=True)

    def log_path(self, container: Container) -> Path:
        return self.records.directory(container.id) / "log.json"
