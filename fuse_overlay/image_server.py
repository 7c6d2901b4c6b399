"""Serves the merged tree of an image, read-only, over /dev/fuse. A plain loop in a process of its own.

Speed is not being asked: no OPEN, no OPENDIR, attributes, names, absent names and links cached for ever, directories
read with their attributes, small files pushed (`prefetch`), and no GETXATTR in a tree without xattrs, where overlayfs
asks for one per file. nodeid = row + 1, so there is no state: killed at any moment, the next server takes the same
descriptor and asks the kernel to send again what the dead one had taken (FUSE_NOTIFY_RESEND, kernel 6.9).
Called by a process that was forked for it; returns when the last user of the mount has gone."""

from __future__ import annotations

import errno
import stat

from fuse_overlay.device import MAX_READ, Device, Handler, Refused, init_answer
from fuse_overlay.layers.index import XATTRS, Row, attributes, is_name
from fuse_overlay.layers.store import Tree
from fuse_overlay.prefetch import Prefetcher
from fuse_overlay.standby import Standby
from fuse_overlay.wire import structs as w

OVERFLOW_ID = 65534
AWAKE_SECONDS = 200e-6  # after an answer: a walker that reads what was pushed is longer in coming back than others
_UID_AT, _GID_AT = w.ENTRY.size + 68, w.ENTRY.size + 72  # struct fuse_attr
_LENGTH_AT = w.ENTRY.size + w.ATTR.size + 16  # struct fuse_dirent
_NO_PAGE = (0, 0, 0)
_NAME_AT = w.ENTRY.size + w.ATTR.size + w.DIRENT.size
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
    serve_tree_on(Device(fuse_fd), tree, id_count=id_count, resume=resume)


def serve_tree_on(device: Device, tree: Tree, *, id_count: int, resume: bool) -> None:
    """The same on a device that is open already."""
    server = ImageServer(device, tree, id_count)
    standby = Standby(device, server.handlers)
    server.prefetcher = Prefetcher(device.fd, tree, standby)
    device.serve(server.handlers, resume=resume, awake_seconds=AWAKE_SECONDS)


class ImageServer:
    """Answers are written by the method of each opcode."""

    def __init__(self, device: Device, tree: Tree, id_count: int) -> None:
        self.device = device
        self._reply, self._error = device.reply, device.error
        self._write, self._write_one = device.write, device.write_one
        self._index = tree.index
        self._tars = tree.tars
        self._id_count = id_count
        self._squashed = 0 if id_count == 1 else OVERFLOW_ID
        self._answer = memoryview(bytearray(MAX_READ))
        self._preadv = tree.preadv
        self._page = _NO_PAGE  # that was listed last: node, and the numbers of its first name and of the one behind it
        self._checked: set[int] = set()  # directories
        self.prefetcher: Prefetcher | None = None
        self.handlers: dict[int, Handler] = {
            w.LOOKUP: self._lookup,
            w.GETATTR: self._getattr,
            w.READLINK: self._readlink,
            w.READ: self._read,
            w.STATFS: self._statfs,
            w.READDIR: self._readdir,
            w.READDIRPLUS: self._readdirplus,
            w.LISTXATTR: self._listxattr,
            w.IOCTL: self._refuse_ioctl,
            w.INIT: self._init,
            w.DESTROY: lambda unique, _nodeid, _body: self._reply(unique),
        }
        if self._index.flags & XATTRS:  # else ENOSYS, and the kernel answers for us from then on
            self.handlers[w.GETXATTR] = self._getxattr

    # ------------------------------------------------------------------------------------------------ answers
    def _row(self, nodeid: int) -> Row:
        return self._index.row(nodeid - 1)

    def _attributes(self, number: int, row: Row) -> bytes:
        uid = row.uid if row.uid < self._id_count else self._squashed
        gid = row.gid if row.gid < self._id_count else self._squashed
        return attributes(number, row.mode, row.nlink, uid, gid, row.size, row.mtime_ns, row.rdev)

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
                self._preadv(row, self._answer[:size], offset)
            except (
                OSError,
                IndexError,
            ) as error:  # the tar has become shorter, or its disk fails
                raise Refused(errno.EIO) from error
        if self.prefetcher is not None:
            self.prefetcher.before_read(nodeid - 1, row.parent)
        self._write([w.OUT_HEADER.pack(w.OUT_HEADER.size + size, 0, unique), self._answer[:size]])

    def _statfs(self, unique: int, _nodeid: int, _body: bytes) -> None:
        self._reply(unique, w.STATFS_OUT.pack(1, 0, 0, self._index.rows, 0, 4096, 255, 4096, 0))

    def _readdirplus(self, unique: int, nodeid: int, body: bytes) -> None:
        _, offset, size = w.READ_IN.unpack_from(body)
        first, count, greatest_id = self._index.extent(nodeid - 1)
        node, start, stop = self._page
        if not (start < offset <= stop if nodeid == node else offset in (0, count)):
            self._check_directory(nodeid, first, count)
        if offset >= count:
            self._page = _NO_PAGE
            if self.prefetcher is not None:
                self.prefetcher.before_end_of_listing(nodeid - 1)
            self._reply(unique)
            return
        listing, stop = self._index.listing(first, count, offset, min(size, MAX_READ))
        self._page = nodeid, offset, stop
        if greatest_id >= self._id_count:
            listing = self._squash(listing)
        # copied, and not written from the map: who is killed while the kernel waits for a page of that leaves an EIO
        self._write_one(w.OUT_HEADER.pack(w.OUT_HEADER.size + len(listing), 0, unique) + listing)
        if stop == count and self.prefetcher is not None:
            self.prefetcher.listed(nodeid - 1)

    def _check_directory(self, nodeid: int, first: int, count: int) -> None:
        """Somebody reads on, and not behind what was listed last: there are two of them, or one who seeks, or a damaged
        cookie in the middle of a page leads back."""
        if nodeid not in self._checked:
            self._index.check_directory(first, count)
            self._checked.add(nodeid)

    def _squash(self, listing: memoryview) -> memoryview:
        """A copy in which ids that do not exist here are replaced."""
        copy = bytearray(listing)
        at = 0
        while at < len(copy):
            for place in (at + _UID_AT, at + _GID_AT):
                if int.from_bytes(copy[place : place + 4], "little") >= self._id_count:
                    copy[place : place + 4] = self._squashed.to_bytes(4, "little")
            at += w.pad8(_NAME_AT + int.from_bytes(copy[at + _LENGTH_AT : at + _LENGTH_AT + 4], "little"))
        return memoryview(copy)

    def _readdir(self, unique: int, nodeid: int, body: bytes) -> None:
        """Only of kernels that do not want the attributes."""
        _, offset, size = w.READ_IN.unpack_from(body)
        first, count, _ = self._index.extent(nodeid - 1)
        parts: list[bytes] = []
        left = min(size, MAX_READ)
        for position in range(min(offset, count), count):
            name, number = self._index.entry(first + position)
            if not is_name(name):
                raise Refused(errno.EIO)
            length = w.pad8(w.DIRENT.size + len(name))
            if length > left:
                break
            left -= length
            parts.append(w.DIRENT.pack(number + 1, position + 1, len(name), self._index.row(number).mode >> 12))
            parts.append(name.ljust(length - w.DIRENT.size, b"\0"))
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
