"""Serves a directory of this machine, read-only and live, over /dev/fuse: the lower layer of the image `host`.

Everything belongs to root in it, whoever owns it outside; what the user may not read stays unreadable. Names left out
at the top are shown as empty directories, so that something can be mounted there. The tree may change under us:
attributes and names are believed for VALID_SECONDS, and a file whose time has changed loses its cached pages.

A node is a path, numbered by `numbered_paths`, so that the next server knows the numbers the kernel has (as with
`image_server`, which needs no list)."""

from __future__ import annotations

import collections
import errno
import os
import stat
from collections.abc import Sequence

from fuse_overlay.device import MAX_READ, Device, Handler, Refused, init_answer
from fuse_overlay.numbered_paths import NumberedPaths
from fuse_overlay.wire import structs as w

VALID_SECONDS = 2
OPEN_FILES = 256
LISTINGS = 64
_WANTED = (
    w.ASYNC_READ
    | w.BIG_WRITES
    | w.AUTO_INVAL_DATA
    | w.DO_READDIRPLUS
    | w.ASYNC_DIO
    | w.NO_OPEN_SUPPORT
    | w.PARALLEL_DIROPS
    | w.MAX_PAGES
    | w.NO_OPENDIR_SUPPORT
    | w.INIT_EXT
)
_HIDDEN_ROOT, _HIDDEN_STICKY = 0o40755, 0o41777


def serve_directory(fuse_fd: int, root: str, *, journal_fd: int, exclude: Sequence[str], resume: bool) -> None:
    """Serve until unmounted. `journal_fd` is a memory file, empty at first; `exclude` are names at the top of `root`.

    Raises OSError where `root` cannot be opened, or from the device."""
    DirectoryServer(Device(fuse_fd), root, journal_fd, exclude).serve(resume=resume)


class DirectoryServer:
    """Answers are written by the method of each opcode."""

    def __init__(self, device: Device, root: str, journal_fd: int, exclude: Sequence[str]) -> None:
        self._device = device
        self._reply = device.reply
        self._paths = NumberedPaths(root, journal_fd)
        self._root = self._paths.root
        self._excluded = {os.fsencode(name) for name in exclude}
        self._files: collections.OrderedDict[int, tuple[int, int]] = collections.OrderedDict()  # nodeid -> (fd, inode)
        self._listings: collections.OrderedDict[int, list[bytes]] = collections.OrderedDict()
        self._answer = memoryview(bytearray(MAX_READ))
        self._handlers: dict[int, Handler] = {
            w.LOOKUP: self._lookup,
            w.GETATTR: self._getattr,
            w.READLINK: self._readlink,
            w.READ: self._read,
            w.STATFS: lambda unique, _nodeid, _body: self._reply(
                unique, w.STATFS_OUT.pack(1, 0, 0, 0, 0, 4096, 255, 4096, 0)
            ),
            w.READDIR: lambda unique, nodeid, body: self._list(unique, nodeid, body, plus=False),
            w.READDIRPLUS: lambda unique, nodeid, body: self._list(unique, nodeid, body, plus=True),
            w.IOCTL: lambda unique, _nodeid, _body: self._device.error(unique, errno.ENOTTY),
            w.INIT: lambda unique, _nodeid, body: self._reply(unique, init_answer(body, _WANTED)),
            w.DESTROY: lambda unique, _nodeid, _body: self._reply(unique),
        }

    def serve(self, *, resume: bool) -> None:
        self._device.serve(self._handlers, resume=resume)

    # ------------------------------------------------------------------------------------------------ nodes
    def _number(self, path: bytes) -> int:
        return self._paths.number(path) + w.ROOT_ID

    def _path(self, nodeid: int) -> bytes:
        return self._paths.path(nodeid - w.ROOT_ID)

    def _below(self, path: bytes, name: bytes) -> bytes:
        return path + b"/" + name if path else name

    def _stat(self, path: bytes) -> os.stat_result:
        """Raises OSError."""
        parent, _, name = path.rpartition(b"/")
        if not parent:
            return os.stat(name or b".", dir_fd=self._root, follow_symlinks=False)
        directory = self._paths.open(parent, os.O_PATH | os.O_DIRECTORY)
        try:
            return os.stat(name, dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(directory)

    # ------------------------------------------------------------------------------------------------ answers
    def _attributes(self, number: int, path: bytes, status: os.stat_result | None = None) -> bytes:
        """Raises OSError where it is not there."""
        if path in self._excluded:
            mode = _HIDDEN_STICKY if path == b"tmp" else _HIDDEN_ROOT
            return w.ATTR.pack(number, 0, 0, 0, 0, 0, 0, 0, 0, mode, 2, 0, 0, 0, 4096, 0)
        s = status if status is not None else self._stat(path)
        self._still_open(number, s)
        times = [moment % 2**64 for moment in (s.st_atime_ns // 10**9, s.st_mtime_ns // 10**9, s.st_ctime_ns // 10**9)]
        parts = [moment % 10**9 for moment in (s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns)]
        links = min(s.st_nlink, 0xFFFFFFFF)
        return w.ATTR.pack(
            number, s.st_size, s.st_blocks, *times, *parts, s.st_mode, links, 0, 0, s.st_rdev & 0xFFFFFFFF, 4096, 0
        )

    def _entry(self, number: int) -> bytes:
        return w.ENTRY.pack(number, 0, VALID_SECONDS, VALID_SECONDS, 0, 0)

    def _lookup(self, unique: int, nodeid: int, body: bytes) -> None:
        directory, name = self._path(nodeid), w.name_of(body)
        if directory in self._excluded or name in (b".", b".."):
            raise Refused(errno.ENOENT)
        path = self._below(directory, name)
        status = self._stat(path)
        number = self._number(path)
        self._reply(unique, self._entry(number) + self._attributes(number, path, status))

    def _getattr(self, unique: int, nodeid: int, _body: bytes) -> None:
        attributes = self._attributes(nodeid, self._path(nodeid))
        self._reply(unique, w.ATTR_OUT.pack(VALID_SECONDS, 0, 0) + attributes)

    def _readlink(self, unique: int, nodeid: int, _body: bytes) -> None:
        parent, _, name = self._path(nodeid).rpartition(b"/")
        directory = self._paths.open(parent, os.O_PATH | os.O_DIRECTORY)
        try:
            self._reply(unique, os.readlink(name, dir_fd=directory))
        except OSError as error:
            raise Refused(error.errno or errno.EIO) from None
        finally:
            os.close(directory)

    def _read(self, unique: int, nodeid: int, body: bytes) -> None:
        _, offset, size = w.READ_IN.unpack_from(body)
        fd = self._file(nodeid)
        try:
            read = os.preadv(fd, [self._answer[: min(size, MAX_READ)]], offset)
        except OSError as error:
            raise Refused(error.errno or errno.EIO) from None
        self._device.write([w.OUT_HEADER.pack(w.OUT_HEADER.size + read, 0, unique), self._answer[:read]])

    def _file(self, nodeid: int) -> int:
        """An open descriptor of a regular file: the last OPEN_FILES are kept. Raises Refused, OSError."""
        known = self._files.get(nodeid)
        if known is not None:
            self._files.move_to_end(nodeid)
            return known[0]
        path = self._path(nodeid)
        if path.partition(b"/")[0] in self._excluded:
            raise Refused(errno.ENOENT)
        fd = self._paths.open(path, os.O_RDONLY | os.O_NONBLOCK)  # no waiting for the writer of a FIFO
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise Refused(errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL)
        self._files[nodeid] = fd, status.st_ino
        if len(self._files) > OPEN_FILES:
            os.close(self._files.popitem(last=False)[1][0])
        return fd

    def _still_open(self, nodeid: int, status: os.stat_result) -> None:
        """A file that was replaced by another of its name is opened anew."""
        known = self._files.get(nodeid)
        if known is not None and known[1] != status.st_ino:
            os.close(self._files.pop(nodeid)[0])

    def _list(self, unique: int, nodeid: int, body: bytes, *, plus: bool) -> None:
        _, offset, size = w.READ_IN.unpack_from(body)
        path = self._path(nodeid)
        names = self._names(nodeid, path, again=offset == 0)
        parts: list[bytes] = []
        left = min(size, MAX_READ)
        fixed = w.DIRENT.size + (w.ENTRY.size + w.ATTR.size if plus else 0)
        directory = -1 if path in self._excluded else self._paths.open(path, os.O_PATH | os.O_DIRECTORY)
        try:
            for position in range(min(offset, len(names)), len(names)):
                name = names[position]
                length = w.pad8(fixed + len(name))
                if length > left:
                    break
                below = self._below(path, name)
                try:
                    hidden = below in self._excluded
                    status = None if hidden else os.stat(name, dir_fd=directory, follow_symlinks=False)
                except OSError:
                    continue  # gone since it was listed
                left -= length
                number = self._number(below)
                if plus:
                    parts.append(self._entry(number) + self._attributes(number, below, status))
                mode = status.st_mode if status is not None else _HIDDEN_ROOT
                parts.append(w.DIRENT.pack(number, position + 1, len(name), mode >> 12))
                parts.append(name.ljust(length - fixed, b"\0"))
        finally:
            if directory >= 0:
                os.close(directory)
        self._reply(unique, b"".join(parts))

    def _names(self, nodeid: int, path: bytes, *, again: bool) -> list[bytes]:
        """The names of a directory, the same list for all parts of one reading."""
        known = None if again else self._listings.get(nodeid)
        if known is not None:
            return known
        if path in self._excluded:
            return []
        fd = self._paths.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            names = sorted(os.fsencode(name) for name in os.listdir(fd))
        except OSError as error:
            raise Refused(error.errno or errno.EIO) from None
        finally:
            os.close(fd)
        self._listings[nodeid] = names
        if len(self._listings) > LISTINGS:
            self._listings.popitem(last=False)
        return names
