"""Serves the merged tree of an image, read-only, over /dev/fuse. A plain loop in a process of its own.

Speed is not being asked: no OPEN, no OPENDIR, attributes, names, absent names and links cached for ever, directories
read with their attributes. nodeid = row + 1, so there is no state: killed at any moment, the next server takes the same
descriptor and asks the kernel to send again what the dead one had taken (FUSE_NOTIFY_RESEND, kernel 6.9).
Called by a process that was forked for it; returns when the last user of the mount has gone."""

from __future__ import annotations

import errno
import os
import stat

from fuse_overlay.device import MAX_READ, Device, Handler, Refused, init_answer
from fuse_overlay.layers.index import Row
from fuse_overlay.layers.store import Tree
from fuse_overlay.prefetch import Prefetcher
from fuse_overlay.wire import structs as w

OVERFLOW_ID = 65534
_WANTED = (
    w.ASYNC_READ
    | w.BIG_WRITES
    | w.DO_READDIRPLUS
    | w.ASYNC_DIO
    | w.NO_OPEN_SUPPORT
    | w.PARALLEL_DIROPS
    | w.MAX_PAGES
    | w.CACHE_SYMLINKS
    | w.NO_OPENDIR_SUPPORT
    | w.EXPLICIT_INVAL_DATA
    | w.INIT_EXT
)


def serve_tree(fuse_fd: int, tree: Tree, *, id_count: int, resume: bool) -> None:
    """Serve until unmounted. `id_count`: ids from there on do not exist in the mount's user namespace and are shown as
    root if it is 1, else as 65534. `resume`: an earlier server has done the INIT. Raises OSError from the device."""
    ImageServer(Device(fuse_fd), tree, id_count).serve(resume=resume)


class ImageServer:
    """Answers are written by the method of each opcode."""

    def __init__(self, device: Device, tree: Tree, id_count: int) -> None:
        self._device = device
        self._reply, self._error, self._write = device.reply, device.error, device.write
        self._index = tree.index
        self._tars = tree.tars
        self._id_count = id_count
        self._squashed = 0 if id_count == 1 else OVERFLOW_ID
        self._answer = memoryview(bytearray(MAX_READ))
        self._prefetcher = Prefetcher(device.fd, tree)
        self._handlers: dict[int, Handler] = {
            w.LOOKUP: self._lookup,
            w.GETATTR: self._getattr,
            w.READLINK: self._readlink,
            w.READ: self._read,
            w.STATFS: self._statfs,
            w.READDIR: self._readdir,
            w.READDIRPLUS: self._readdirplus,
            w.GETXATTR: self._getxattr,
            w.LISTXATTR: self._listxattr,
            w.IOCTL: self._refuse_ioctl,
            w.INIT: self._init,
            w.DESTROY: lambda unique, _nodeid, _body: self._reply(unique),
        }

    def serve(self, *, resume: bool) -> None:
        self._device.serve(self._handlers, resume=resume)

    # ------------------------------------------------------------------------------------------------ answers
    def _row(self, nodeid: int) -> Row:
        try:
            return self._index.row(nodeid - 1)
        except IndexError:
            raise Refused(errno.ENOENT) from None

    def _attributes(self, number: int, row: Row) -> bytes:
        seconds, nanoseconds = divmod(row.mtime_ns, 10**9)
        seconds &= 0xFFFFFFFFFFFFFFFF
        uid = row.uid if row.uid < self._id_count else self._squashed
        gid = row.gid if row.gid < self._id_count else self._squashed
        blocks = -(-row.size // 512)
        times = seconds, seconds, seconds, nanoseconds, nanoseconds, nanoseconds
        return w.ATTR.pack(number + 1, row.size, blocks, *times, row.mode, row.nlink, uid, gid, row.rdev, 4096, 0)

    def _init(self, unique: int, _nodeid: int, body: bytes) -> None:
        self._reply(unique, init_answer(body, _WANTED))

    def _lookup(self, unique: int, nodeid: int, body: bytes) -> None:
        number = self._index.lookup(self._row(nodeid), w.name_of(body))
        if number is None:  # a node id of 0: there is no such name, and that may be remembered
            self._reply(unique, w.ENTRY.pack(0, 0, w.FOREVER, w.FOREVER, 0, 0) + bytes(w.ATTR.size))
            return
        entry = w.ENTRY.pack(number + 1, 0, w.FOREVER, w.FOREVER, 0, 0)
        self._reply(unique, entry + self._attributes(number, self._index.row(number)))

    def _getattr(self, unique: int, nodeid: int, _body: bytes) -> None:
        attributes = self._attributes(nodeid - 1, self._row(nodeid))
        self._reply(unique, w.ATTR_OUT.pack(w.FOREVER, 0, 0) + attributes)

    def _readlink(self, unique: int, nodeid: int, _body: bytes) -> None:
        row = self._row(nodeid)
        if not stat.S_ISLNK(row.mode):
            raise Refused(errno.EINVAL)
        self._reply(unique, self._index.link(row))

    def _read(self, unique: int, nodeid: int, body: bytes) -> None:
        _, offset, size = w.READ_IN.unpack_from(body)
        row = self._row(nodeid)
        if not stat.S_ISREG(row.mode):
            raise Refused(errno.EISDIR)
        size = max(0, min(size, MAX_READ, row.size - offset))
        if size:
            try:
                read = os.preadv(self._tars[row.layer], [self._answer[:size]], row.data_offset + offset)
            except (OSError, IndexError) as error:
                raise Refused(errno.EIO) from error
            if read != size:  # the tar is shorter than when it was indexed
                raise Refused(errno.EIO)
        self._write([w.OUT_HEADER.pack(w.OUT_HEADER.size + size, 0, unique), self._answer[:size]])
        self._prefetcher.was_read(row.parent)

    def _statfs(self, unique: int, _nodeid: int, _body: bytes) -> None:
        self._reply(unique, w.STATFS_OUT.pack(1, 0, 0, self._index.rows, 0, 4096, 255, 4096, 0))

    def _readdir(self, unique: int, nodeid: int, body: bytes) -> None:
        self._list(unique, nodeid, body, plus=False)

    def _readdirplus(self, unique: int, nodeid: int, body: bytes) -> None:
        self._list(unique, nodeid, body, plus=True)

    def _list(self, unique: int, nodeid: int, body: bytes, *, plus: bool) -> None:
        _, offset, size = w.READ_IN.unpack_from(body)
        directory = self._row(nodeid)
        parts: list[bytes] = []
        left = min(size, MAX_READ)
        fixed = w.DIRENT.size + (w.ENTRY.size + w.ATTR.size if plus else 0)
        for position in range(min(offset, directory.dirents), directory.dirents):
            name, number = self._index.entry(directory.first_dirent + position)
            length = w.pad8(fixed + len(name))
            if length > left:
                break
            left -= length
            row = self._index.row(number)
            if plus:
                parts.append(w.ENTRY.pack(number + 1, 0, w.FOREVER, w.FOREVER, 0, 0))
                parts.append(self._attributes(number, row))
            parts.append(w.DIRENT.pack(number + 1, position + 1, len(name), row.mode >> 12))
            parts.append(name.ljust(length - fixed, b"\0"))
        self._reply(unique, b"".join(parts))

    def _getxattr(self, unique: int, nodeid: int, body: bytes) -> None:
        size, _ = w.XATTR_IN.unpack_from(body)
        value = self._index.xattrs(self._row(nodeid)).get(w.name_of(body[w.XATTR_IN.size :]))
        if value is None:
            raise Refused(errno.ENODATA)
        self._sized(unique, size, value)

    def _listxattr(self, unique: int, nodeid: int, body: bytes) -> None:
        size, _ = w.XATTR_IN.unpack_from(body)
        self._sized(unique, size, b"".join(name + b"\0" for name in self._index.xattrs(self._row(nodeid))))

    def _sized(self, unique: int, size: int, value: bytes) -> None:
        if size == 0:
            self._reply(unique, w.XATTR_OUT.pack(len(value), 0))
        elif len(value) > size:
            raise Refused(errno.ERANGE)
        else:
            self._reply(unique, value)

    def _refuse_ioctl(self, unique: int, _nodeid: int, _body: bytes) -> None:
        self._error(unique, errno.ENOTTY)  # overlayfs asks for FS_IOC_GETFLAGS at copy-up; ENOSYS breaks 5.15
