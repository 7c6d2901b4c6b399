"""Serves an image some of whose layers are lazy: as `image_server`, but a READ of what is not there yet waits in a
thread of its own until it has come, and nobody else waits with it. Nothing is pushed ahead: it may not be there."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from fuse_overlay.device import MAX_READ, Device, Refused
from fuse_overlay.image_server import ImageServer
from fuse_overlay.layers.index import Row
from fuse_overlay.layers.lazy import LazyContent
from fuse_overlay.layers.store import Tree
from fuse_overlay.wire import structs as w

WAITING = 64  # reads at most


def serve_lazy_tree(
    fuse_fd: int, tree: Tree, layer_directories: Sequence[Path], *, id_count: int, resume: bool
) -> None:
    """See serve_tree. Raises LayerError, OSError from the device."""
    device = Device(fuse_fd)
    server = ImageServer(device, tree, id_count)
    reads = LazyReads(device, tree, [LazyContent.of(directory) for directory in layer_directories])
    device.serve({**server.handlers, w.READ: reads.read}, resume=resume)


class LazyReads:
    """The READ handler. `contents` by layer, None for a whole one."""

    def __init__(self, device: Device, tree: Tree, contents: Sequence[LazyContent | None]) -> None:
        from concurrent.futures import ThreadPoolExecutor  # 10 ms that only these servers pay

        self._device = device
        self._tree = tree
        self._contents = list(contents)
        self._threads = ThreadPoolExecutor(WAITING, "read")

    def read(self, unique: int, nodeid: int, body: bytes) -> None:
        _, offset, size = w.READ_IN.unpack_from(body)
        try:
            row = self._tree.index.row(nodeid - 1)
        except IndexError:
            raise Refused(errno.ENOENT) from None
        if not stat.S_ISREG(row.mode):
            raise Refused(errno.EISDIR)
        size = max(0, min(size, MAX_READ, row.size - offset))
        content = self._contents[row.layer] if size else None
        missing = content.missing(row.data_offset + offset, size) if content is not None else []
        if content is not None and missing:
            self._threads.submit(self._later, content, missing, unique, row, offset, size)
        else:
            self._answer(unique, row, offset, size)

    def _later(
        self, content: LazyContent, missing: Sequence[int], unique: int, row: Row, offset: int, size: int
    ) -> None:
        try:
            if content.ask(missing):
                self._answer(unique, row, offset, size)
            else:
                self._device.error(unique, errno.EIO)
        except OSError:
            os._exit(1)  # the device is gone

    def _answer(self, unique: int, row: Row, offset: int, size: int) -> None:
        try:
            data = memoryview(bytearray(size))
            self._tree.preadv(row, data, offset)
        except (OSError, IndexError):
            self._device.error(unique, errno.EIO)
            return
        self._device.write([w.OUT_HEADER.pack(w.OUT_HEADER.size + size, 0, unique), data])
