"""A layer below the writable one: what the union may ask of it, and the tar-and-index kind.

An entry is a `place`: 0 is the root, any other number a name in a directory (so the names of a hard link are entries of
their own, as in overlayfs: writing through one of them leaves the others alone). Places stay valid for ever."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator
from typing import Protocol

from fuse_overlay.layers.index import MERGED, OPAQUE, WHITEOUT, Row, is_name
from fuse_overlay.layers.store import Tree
from fuse_overlay.union.merge import WHITED_OUT
from fuse_overlay.wire import structs as w

OVERFLOW_ID = 65534


class Lower(Protocol):
    """Every method raises OSError with the errno for the caller."""

    number: int  # among the layers, 0 is the highest
    valid_seconds: int  # how long its names and attributes may be believed
    identity: int  # 64 bits: the same layer has the same in every mount
    session: int  # 64 bits: places are the same in all servers that have this one; 0: in all

    def find(self, directory: int, name: bytes) -> int | None:
        """The place, WHITED_OUT, or None."""

    def entries(self, directory: int) -> Iterable[tuple[bytes, int]]:
        """(name, place or WHITED_OUT) of all names, in an order that stays."""

    def mode(self, place: int) -> int:
        """With the file type."""

    def opaque(self, place: int) -> bool:
        """A directory through which the layers below do not show."""

    def attributes(self, place: int) -> bytes:
        """A fuse_attr."""

    def inode(self, place: int) -> int:
        """st_ino: one for all names of a hard link, and none that another layer or the upper uses."""

    def owner(self, place: int) -> tuple[int, int]:
        """Ids as the layer has them, whether or not they exist here."""

    def read_into(self, place: int, view: memoryview, offset: int) -> int: ...

    def link(self, place: int) -> bytes: ...

    def xattrs(self, place: int) -> dict[bytes, bytes]: ...

    def parent(self, place: int) -> tuple[int, bytes]:
        """(directory's place, own name) of any but the root."""

    def pieces(self, place: int, offset: int, size: int) -> Iterable[tuple[int, int, int]]:
        """A regular file's content from `offset` on, at most `size` bytes, as (descriptor, offset in it, bytes); the
        offset of a hole is -1. Descriptors stay the layer's."""


def _corrupt() -> OSError:
    return OSError(errno.EIO, "the index is corrupt")


class TreeLower:
    """The merged tree of an image. `id_count`: ids from there on do not exist here (see serve_tree)."""

    valid_seconds = w.FOREVER

    def __init__(self, tree: Tree, number: int, first_inode: int, id_count: int) -> None:
        self.number = number
        self._index = tree.index
        self.has_whiteouts = not tree.index.flags & MERGED
        self._tars = tree.tars
        self._preadv = tree.preadv
        self._first_inode = first_inode
        self._id_count = id_count
        self.identity = int.from_bytes(b"".join(layer.digest[:8] for layer in tree.index.layers)[-8:], "little")
        self.session = 0
        self._squashed = 0 if id_count == 1 else OVERFLOW_ID

    def _row(self, place: int) -> tuple[int, Row]:
        try:
            number = self._index.entry(place - 1)[1] if place else 0
        except IndexError:
            raise OSError(errno.ENOENT, "no such place in the index") from None
        try:
            return number, self._index.row(number)
        except IndexError:
            raise _corrupt() from None

    def find(self, directory: int, name: bytes) -> int | None:
        """The tree of the lowest layers has no whiteouts; that of tars above a directory may."""
        row = self._row(directory)[1]
        entry = self._index.entry
        low, high = row.first_dirent, row.first_dirent + row.dirents
        if high > self._index.dirents:
            raise _corrupt()
        while low < high:
            middle = (low + high) // 2
            found, number = entry(middle)
            if found == name:
                return WHITED_OUT if number == WHITEOUT else middle + 1
            if found < name:
                low = middle + 1
            else:
                high = middle
        return None

    def entries(self, directory: int) -> Iterator[tuple[bytes, int]]:
        first, count = self._extent(directory)
        entry = self._index.entry
        before = b""
        for at in range(first, first + count):
            name, number = entry(at)
            if name <= before or b"\0" in name or b"/" in name:
                raise _corrupt()
            before = name
            yield name, WHITED_OUT if number == WHITEOUT else at + 1

    def entries_from(self, directory: int, start: int) -> Iterator[tuple[bytes, int, bytes]]:
        """(name, place, attributes) from the `start`th name on, of a tree without whiteouts."""
        first, count = self._extent(directory)
        entry = self._index.entry
        before = b""
        for at in range(first + start, first + count):
            name, number = entry(at)
            if name <= before or b"\0" in name:  # the kernel looks for slashes
                raise _corrupt()
            before = name
            yield name, at + 1, self._attributes(number, self._index.row(number))

    def _extent(self, directory: int) -> tuple[int, int]:
        """(first dirent, dirents)."""
        try:
            return self._index.extent(self._row(directory)[0])[:2]
        except IndexError:
            raise _corrupt() from None

    def mode(self, place: int) -> int:
        return self._row(place)[1].mode

    def opaque(self, place: int) -> bool:
        return bool(self._row(place)[1].flags & OPAQUE)

    def attributes(self, place: int) -> bytes:
        return self._attributes(*self._row(place))

    def _attributes(self, number: int, row: Row) -> bytes:
        seconds, nanoseconds = divmod(row.mtime_ns, 10**9)
        seconds &= 0xFFFFFFFFFFFFFFFF
        uid = row.uid if row.uid < self._id_count else self._squashed
        gid = row.gid if row.gid < self._id_count else self._squashed
        times = seconds, seconds, seconds, nanoseconds, nanoseconds, nanoseconds
        inode = self._first_inode + number + 1
        return w.ATTR.pack(
            inode, row.size, -(-row.size // 512), *times, row.mode, row.nlink, uid, gid, row.rdev, 4096, 0
        )

    def inode(self, place: int) -> int:
        return self._first_inode + self._row(place)[0] + 1

    def owner(self, place: int) -> tuple[int, int]:
        row = self._row(place)[1]
        return row.uid, row.gid

    def read_into(self, place: int, view: memoryview, offset: int) -> int:
        row = self._row(place)[1]
        size = max(0, min(len(view), row.size - offset))
        if size:
            try:
                self._preadv(row, view[:size], offset)
            except (IndexError, struct.error):
                raise _corrupt() from None
        return size

    def link(self, place: int) -> bytes:
        return self._index.link(self._row(place)[1])

    def xattrs(self, place: int) -> dict[bytes, bytes]:
        row = self._row(place)[1]
        return self._index.xattrs(row) if row.xattrs_bytes else {}

    def parent(self, place: int) -> tuple[int, bytes]:
        try:
            name, _ = self._index.entry(place - 1)
            above = self._place(self._holder(place - 1))
        except IndexError:
            raise _corrupt() from None
        if above >= place or not is_name(name):  # it would be above itself
            raise _corrupt()
        return above, name

    def _holder(self, position: int) -> int:
        """The row of a dirent's directory. They are numbered in the order of their names' places: a binary search."""
        low, high = 0, self._index.rows - 1
        while low < high:  # the last row that begins at or before it: empty ones begin where the next directory does
            middle = (low + high + 1) // 2
            if self._index.row(middle).first_dirent <= position:
                low = middle
            else:
                high = middle - 1
        return low

    def _place(self, number: int) -> int:
        """The place of a directory's row. Raises IndexError."""
        if number == 0:
            return 0
        first, count, _ = self._index.extent(self._index.row(number).parent)
        for position in range(first, first + count):
            if self._index.entry(position)[1] == number:
                return position + 1
        raise _corrupt()

    def pieces(self, place: int, offset: int, size: int) -> Iterable[tuple[int, int, int]]:
        row = self._row(place)[1]
        try:
            tar = self._tars[row.layer]
            return [(tar, at, length) for at, length in self._index.segments(row, offset, size)]
        except (IndexError, struct.error):
            raise _corrupt() from None
