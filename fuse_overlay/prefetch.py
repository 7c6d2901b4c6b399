"""Pushes into the page cache what will be read next (FUSE_NOTIFY_STORE): a request saved is two context switches saved.

Only what the kernel knows the inodes of can be stored, that is, directories that were listed to their end: then
somebody walks and does not open by name. Done before the answer the walker waits for:

- a directory's small files, when one of them is read for the first time;
- and at the end of the listing, where the directories before were read: each read of a listed directory gives credit
  for twice as many directories (at most MAX_CREDIT), then one is left as a probe. Who lists and does not read costs
  no more than the credit.

Bounded: a file of at most MAX_FILE bytes, MAX_PUSH bytes at a time, each directory's files once."""

from __future__ import annotations

import errno
import os
import stat
import struct

from fuse_overlay.layers.index import Row
from fuse_overlay.layers.store import Tree
from fuse_overlay.standby import Standby
from fuse_overlay.wire import structs as w

MAX_FILE = 512 << 10
MAX_PUSH = 8 << 20
MAX_CREDIT = 32
_LISTED, _PUSHED = 1, 2
_HEAD_BYTES = w.OUT_HEADER.size + w.STORE_OUT.size


class Prefetcher:
    """Its methods take rows of the tree; before_… are called before the answer is written."""

    def __init__(self, fuse_fd: int, tree: Tree, standby: Standby) -> None:
        self._fuse_fd = fuse_fd
        self._tree = tree
        self._index = tree.index
        self._standby = standby
        self._state = bytearray(tree.index.rows)
        self._credit = self._granted = 0
        self._content = memoryview(bytearray(MAX_FILE))

    def listed(self, number: int) -> None:
        """All names of a directory have been told: the kernel knows their inodes."""
        self._state[number] = self._state[number] or _LISTED

    def before_end_of_listing(self, number: int) -> None:
        """A directory has been listed to its end."""
        if self._credit and self._state[number] == _LISTED and (files := self._small_files(number)):
            self._credit -= 1
            self._state[number] = _PUSHED
            self._push(files)

    def before_read(self, number: int, parent: int) -> None:
        """A file's content has been asked for."""
        if self._state[parent] != _LISTED:
            return
        self._state[parent] = _PUSHED
        self._granted = min(2 * self._granted + 4, MAX_CREDIT)
        self._credit = self._granted
        files = self._small_files(parent)
        self._push([(child, row) for child, row in files if child != number])

    def _small_files(self, directory: int) -> list[tuple[int, Row]]:
        found = []
        for child, row in self._index.children(self._index.row(directory)):
            if stat.S_ISREG(row.mode) and 0 < row.size <= MAX_FILE:
                found.append((child, row))
        return found

    def _push(self, files: list[tuple[int, Row]]) -> None:
        if not files:
            return
        left = MAX_PUSH
        with self._standby:
            try:
                for number, row in files:
                    left -= row.size
                    if left < 0:
                        return
                    content = self._content[: row.size]
                    self._tree.preadv(row, content, 0)
                    self._store(number, content)
            except (OSError, IndexError, ValueError, struct.error):
                pass  # a tar that has become shorter, a mount that has gone: whoever reads will be told

    def _store(self, number: int, content: memoryview) -> None:
        head = w.OUT_HEADER.pack(_HEAD_BYTES + len(content), w.NOTIFY_STORE, 0)
        try:
            os.writev(self._fuse_fd, [head + w.STORE_OUT.pack(number + 1, 0, len(content), 0), content])
        except OSError as error:
            if error.errno != errno.ENOENT:  # ENOENT: the kernel has forgotten that inode
                raise
