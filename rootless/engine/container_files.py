"""A container's files: what it changed, the whole as a tar, paths copied in and out. The launcher's child does the work
(see launcher.container_files); here are its pipes.

The container's lock is held meanwhile, but while a running one is copied from or to: it may not be started on mounts of
its root that are ours, nor deleted."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from rootless.engine.container import Container
from rootless.engine.link import Link
from rootless.engine.record import Records
from rootless.engine.specification import container_spec
from rootless.engine.storage import UNION, Storage
from rootless.images.images import Images
from rootless.launcher import messages
from rootless.launcher.client import LaunchFailure
from rootless.model.errors import Conflict, Forbidden, InvalidParameter, NotFound, RootlessError
from rootless.runtime.spec import UnionSpec

PIPE_BYTES = 1 << 20  # /proc/sys/fs/pipe-max-size for users
_KINDS = {"not found": NotFound, "invalid": InvalidParameter, "read-only": Forbidden}


class ContainerFiles:
    """Every method raises NotFound, InvalidParameter, Forbidden (read-only), Conflict, RootlessError."""

    def __init__(self, images: Images, records: Records, link: Link, storage: Storage) -> None:
        self._images, self._records, self._link, self._storage = images, records, link, storage

    async def changes(self, container: Container) -> list[tuple[int, str]]:
        """(0 modified, 1 added, 2 deleted; path), sorted by path."""
        async with self.work(container, "changes") as work:
            return [(int(kind), str(path)) for kind, path in await work.result()]

    async def size(self, container: Container) -> int:
        """Bytes of the files the container has written."""
        async with self.work(container, "size") as work:
            return int(await work.result())

    async def stat(self, container: Container, path: str) -> dict[str, Any]:
        async with self.work(container, "stat", path) as work:
            found = await work.result()
            assert isinstance(found, dict)
            return found

    async def write(self, container: Container, path: str, chunks: AsyncIterator[bytes], *, replace: bool) -> None:
        """A tar's bytes, unpacked below a directory."""
        async with self.work(container, "write", path, replace=replace) as work:
            await work.send(chunks)
            await work.result()

    @asynccontextmanager
    async def work(self, container: Container, action: str, path: str = "", **options: bool) -> AsyncIterator[Work]:
        """What the child gives: for "layer", "export" and "read" its data first, then its result. `options` are
        `replace` and `freeze` of messages.WorkOnFiles."""
        copying = action in ("stat", "read", "write")
        if container.running and copying:
            async with self._begun(container, action, path, options) as work:
                yield work
            return
        async with container.lock, self._begun(container, action, path, options) as work:
            yield work

    @asynccontextmanager
    async def _begun(
        self, container: Container, action: str, path: str, options: Mapping[str, bool]
    ) -> AsyncIterator[Work]:
        request = await self._request(container, action, path, options)
        writing = action == "write"
        ends = [os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)]
        (data_read, data_write), (result_read, result_write) = ends
        ours, theirs = (data_write, data_read) if writing else (data_read, data_write)
        fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        data, result = trio.lowlevel.FdStream(ours), trio.lowlevel.FdStream(result_read)
        try:
            try:
                await self._link.request(request, [theirs, result_write])
            except LaunchFailure as failure:
                raise RootlessError(f"cannot look at the files of {container.name}: {failure}") from failure
            finally:
                os.close(theirs)
                os.close(result_write)
            yield Work(container.name, data, result)
        finally:
            await trio.aclose_forcefully(data)
            await trio.aclose_forcefully(result)

    async def _request(
        self, container: Container, action: str, path: str, options: Mapping[str, bool]
    ) -> messages.WorkOnFiles:
        image = self._images.resolve(container.record.image_id)
        source = await self._images.sound_source(image)
        lower: str | UnionSpec = ""
        if action in ("stat", "read", "write"):
            if not container.running:
                union = await self._storage.driver(container.record) == UNION
                if union and source.kind != "lazy":
                    lower = source.union
                else:
                    path_below = await self._link.mounted(source.mount)
                    lower = UnionSpec("mounted", path_below) if union else path_below
        elif source.kind != "tree" and action != "size":
            reason = "its image is not all here yet: wait until it has been pulled"
            if self._images.is_host(image):
                reason = "it is of the image host, this machine itself, and what it sees is not in layers"
            raise Conflict(f"cannot tell what {container.name} changed: {reason}")
        spec = container_spec(container.record, lower, self._records.directory(container.id), ())
        layers = tuple(str(layer) for layer in source.layers)
        return messages.WorkOnFiles(action, spec, str(source.tree), layers, path, **options)


class Work:
    """One child at work."""

    def __init__(self, name: str, data: trio.lowlevel.FdStream, result: trio.lowlevel.FdStream) -> None:
        self._name, self._data, self._result = name, data, result

    async def receive(self) -> bytes:
        """The next bytes of the child's; b"" at the end: then look at the result."""
        return bytes(await self._data.receive_some(PIPE_BYTES))

    async def chunks(self) -> AsyncIterator[bytes]:
        """All of the child's bytes; raises at the end what went wrong."""
        while data := await self.receive():
            yield data
        await self.result()

    async def send(self, chunks: AsyncIterator[bytes]) -> None:
        """Bytes for the child, and the end of them. One that has stopped reading has its reasons: see the result."""
        async for data in chunks:
            try:
                await self._data.send_all(data)
            except trio.BrokenResourceError:
                break
        await self._data.aclose()

    async def result(self) -> Any:
        parts = []
        while data := await self._result.receive_some(65536):
            parts.append(bytes(data))
        if not parts:
            raise RootlessError("the process that works on the container's files has died; see the launcher's log")
        answer = json.loads(b"".join(parts))
        if "error" in answer:
            where = f" in container {self._name}" if answer["kind"] == "not found" else ""
            raise _KINDS.get(answer["kind"], RootlessError)(answer["error"] + where)
        return answer["ok"]
