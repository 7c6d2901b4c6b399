"""Pushes a directory's small files into the page cache when one of them is read for the first time.

In a process of its own: NOTIFY_STORE blocks on a page whose READ has not been answered. Bounded: a file of at most
MAX_FILE bytes, a directory of at most MAX_DIRECTORY bytes, each directory once, and only while somebody reads."""

from __future__ import annotations

import errno
import os
import signal
import stat
import struct

from fuse_overlay.layers.store import Tree
from fuse_overlay.wire import structs as w

MAX_FILE = 128 << 10
MAX_DIRECTORY = 16 << 20
_ORDER = struct.Struct("<I")


class Prefetcher:
    """The server's end: `was_read(directory row)` costs a set lookup and, once a directory, one write to a pipe."""

    def __init__(self, fuse_fd: int, tree: Tree) -> None:
        self._fuse_fd = fuse_fd
        self._tree = tree
        self._done: set[int] = set()
        self._pipe = -1

    def was_read(self, directory: int) -> None:
        if directory in self._done:
            return
        self._done.add(directory)
        if self._pipe < 0:
            self._start()
        try:
            os.write(self._pipe, _ORDER.pack(directory))
        except OSError:
            return  # it is behind or has died: reads are answered all the same

    def _start(self) -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        if os.fork() == 0:
            try:
                os.close(writing)
                os.sched_setaffinity(0, range(os.cpu_count() or 1))  # the server follows its client, we need not
                _push_directories(self._fuse_fd, self._tree, reading)
            finally:
                os._exit(0)
        os.close(reading)
        os.set_blocking(writing, False)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # reaped by the kernel
        self._pipe = writing


def _push_directories(fuse_fd: int, tree: Tree, orders: int) -> None:
    """Until the server has gone (end of file) or the mount has (ENODEV)."""
    while len(order := os.read(orders, _ORDER.size)) == _ORDER.size:
        (number,) = _ORDER.unpack(order)
        left = MAX_DIRECTORY
        for _, child in tree.index.entries(tree.index.row(number)):
            row = tree.index.row(child)
            if not stat.S_ISREG(row.mode) or not 0 < row.size <= MAX_FILE:
                continue
            left -= row.size
            if left < 0:
                break
            content = os.pread(tree.tars[row.layer], row.size, row.data_offset)
            if len(content) != row.size:
                continue
            length = w.OUT_HEADER.size + w.STORE_OUT.size + len(content)
            head = w.OUT_HEADER.pack(length, w.NOTIFY_STORE, 0) + w.STORE_OUT.pack(child + 1, 0, len(content), 0)
            try:
                os.writev(fuse_fd, [head, content])
            except OSError as error:
                if error.errno != errno.ENOENT:  # ENOENT: nobody has looked that name up
                    return
