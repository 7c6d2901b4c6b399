"""A directory of this machine as a layer below: its own files, or what an engine has unpacked in overlayfs' format.

A place is a path's number (`numbered_paths`). Whiteouts and opaque directories are taken in every form in which they
are found: devices 0/0, xattrs of overlayfs and of fuse-overlayfs, `.wh.` names."""

from __future__ import annotations

import collections
import errno
import os
import stat
from collections.abc import Iterable, Sequence

from fuse_overlay.numbered_paths import NumberedPaths
from fuse_overlay.union import marks
from fuse_overlay.union.merge import WHITED_OUT
from fuse_overlay.wire import structs as w

OPEN_DIRECTORIES = 256
OPEN_FILES = 256
INODE_SHIFT = 33
_HIDDEN_ROOT, _HIDDEN_STICKY = 0o40755, 0o41777
_OPAQUE_NAMES = (marks.OPAQUE, b"user.fuseoverlayfs.opaque", b"trusted.overlay.opaque")


class DirectoryLower:
    """`devices` numbers the file systems in use, so that st_ino of two never meet. `exclude` are names at the top that
    are shown as empty directories; `squash`: everything belongs to root. `plain`: no file is a whiteout.

    Raises OSError where the directory cannot be opened."""

    def __init__(
        self,
        path: str,
        number: int,
        devices: dict[int, int],
        *,
        exclude: Sequence[str] = (),
        squash: bool = False,
        plain: bool = False,
        valid_seconds: int = w.FOREVER,
        journal_fd: int = -1,
    ) -> None:
        self.number = number
        self.valid_seconds = valid_seconds
        self._paths = NumberedPaths(path, journal_fd if journal_fd >= 0 else os.memfd_create("journal", os.MFD_CLOEXEC))
        self.session = self._paths.session
        self._root = self._paths.root
        self._devices = devices
        top = os.fstat(self._root)
        self.identity = (top.st_dev << 40 ^ top.st_ino) & (1 << 64) - 1
        self._excluded = {os.fsencode(name) for name in exclude}
        self._squash = squash
        self._plain = plain
        self._directories: collections.OrderedDict[bytes, int] = collections.OrderedDict()
        self._files: collections.OrderedDict[int, int] = collections.OrderedDict()

    # ------------------------------------------------------------------------------------------------ places
    def _directory(self, path: bytes) -> int:
        """A descriptor of a directory; the last OPEN_DIRECTORIES are kept."""
        if not path:
            return self._root
        fd = self._directories.get(path)
        if fd is not None:
            self._directories.move_to_end(path)
            return fd
        fd = self._directories[path] = self._paths.open(path, os.O_PATH | os.O_DIRECTORY)
        if len(self._directories) > OPEN_DIRECTORIES:
            os.close(self._directories.popitem(last=False)[1])
        return fd

    def _status(self, path: bytes) -> os.stat_result:
        parent, _, name = path.rpartition(b"/")
        return os.stat(name or b".", dir_fd=self._directory(parent), follow_symlinks=False)

    # ------------------------------------------------------------------------------------------------ names
    def find(self, directory: int, name: bytes) -> int | None:
        above = self._paths.path(directory)
        if above in self._excluded:
            return None
        fd = self._directory(above)
        path = above + b"/" + name if above else name
        known = self._paths.known(path)
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None if self._plain else self._by_prefix(fd, name)
        if not self._plain and self._is_whiteout(fd, name, status):
            return WHITED_OUT
        return known if known is not None else self._paths.number(path)

    def _by_prefix(self, fd: int, name: bytes) -> int | None:
        for sign in (b".wh." + name, b".wh..wh..opq"):
            try:
                os.stat(sign, dir_fd=fd, follow_symlinks=False)
            except OSError:
                continue
            return WHITED_OUT
        return None

    def _is_whiteout(self, fd: int, name: bytes, status: os.stat_result) -> bool:
        if marks.is_whiteout(status.st_mode, status.st_rdev) or name.startswith(b".wh."):
            return True
        if status.st_size or not stat.S_ISREG(status.st_mode):
            return False
        return self._xattr(b"/proc/self/fd/%d/%s" % (fd, name), marks.WHITEOUT) is not None

    def entries(self, directory: int) -> Iterable[tuple[bytes, int]]:
        above = self._paths.path(directory)
        if above in self._excluded:
            return []
        fd = self._paths.open(above, os.O_RDONLY | os.O_DIRECTORY)
        found: list[tuple[bytes, int]] = []
        try:
            with os.scandir(fd) as listing:
                for entry in sorted(listing, key=lambda entry: entry.name):
                    name = os.fsencode(entry.name)
                    if not self._plain:
                        if name.startswith(b".wh."):
                            found.append((name[4:], WHITED_OUT))
                            continue
                        if not (entry.is_dir(follow_symlinks=False) or entry.is_symlink()) and self._is_whiteout(
                            fd, name, entry.stat(follow_symlinks=False)
                        ):
                            found.append((name, WHITED_OUT))
                            continue
                    found.append((name, self._paths.number(above + b"/" + name if above else name)))
        finally:
            os.close(fd)
        return found

    def parent(self, place: int) -> tuple[int, bytes]:
        above, _, name = self._paths.path(place).rpartition(b"/")
        return self._paths.number(above), name

    # ------------------------------------------------------------------------------------------------ what it is
    def mode(self, place: int) -> int:
        path = self._paths.path(place)
        if path in self._excluded:
            return _HIDDEN_ROOT
        return self._status(path).st_mode

    def opaque(self, place: int) -> bool:
        if self._plain:
            return False
        path = self._paths.path(place)
        fd = self._directory(path)
        where = b"/proc/self/fd/%d" % fd
        if any(self._xattr(where, name, follow=True) == b"y" for name in _OPAQUE_NAMES):
            return True
        try:
            os.stat(b".wh..wh..opq", dir_fd=fd, follow_symlinks=False)
        except OSError:
            return False
        return True

    def _xattr(self, path: bytes, name: bytes, *, follow: bool = False) -> bytes | None:
        try:
            return os.getxattr(path, name, follow_symlinks=follow)
        except OSError:
            return None

    def inode(self, place: int) -> int:
        path = self._paths.path(place)
        return self._shown(self._status(path))

    def _shown(self, status: os.stat_result) -> int:
        device = self._devices.setdefault(status.st_dev, len(self._devices) + 1)
        return status.st_ino + (device << INODE_SHIFT)

    def attributes(self, place: int) -> bytes:
        path = self._paths.path(place)
        if path in self._excluded:
            mode = _HIDDEN_STICKY if path == b"tmp" else _HIDDEN_ROOT
            return w.ATTR.pack(place + 1, 0, 0, 0, 0, 0, 0, 0, 0, mode, 2, 0, 0, 0, 4096, 0)
        s = self._status(path)
        self._still_open(place, s)
        uid, gid = (0, 0) if self._squash else (s.st_uid, s.st_gid)
        times = [moment % 2**64 for moment in (s.st_atime_ns // 10**9, s.st_mtime_ns // 10**9, s.st_ctime_ns // 10**9)]
        parts = [moment % 10**9 for moment in (s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns)]
        links = min(s.st_nlink, 0xFFFFFFFF)
        return w.ATTR.pack(
            self._shown(s),
            s.st_size,
            s.st_blocks,
            *times,
            *parts,
            s.st_mode,
            links,
            uid,
            gid,
            s.st_rdev & 0xFFFFFFFF,
            4096,
            0,
        )

    def owner(self, place: int) -> tuple[int, int]:
        if self._squash:
            return 0, 0
        status = self._status(self._paths.path(place))
        return status.st_uid, status.st_gid

    def link(self, place: int) -> bytes:
        parent, _, name = self._paths.path(place).rpartition(b"/")
        return os.readlink(name, dir_fd=self._directory(parent))

    def xattrs(self, place: int) -> dict[bytes, bytes]:
        parent, _, name = self._paths.path(place).rpartition(b"/")
        path = b"/proc/self/fd/%d/%s" % (self._directory(parent), name or b".")
        try:
            names = os.listxattr(path, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EPERM, errno.EACCES):
                return {}
            raise
        found: dict[bytes, bytes] = {}
        for each in names:
            value = self._xattr(path, os.fsencode(each))
            if value is not None:
                found[os.fsencode(each)] = value
        return found

    # ------------------------------------------------------------------------------------------------ contents
    def _file(self, place: int) -> int:
        """A descriptor of a regular file; the last OPEN_FILES are kept."""
        fd = self._files.get(place)
        if fd is not None:
            self._files.move_to_end(place)
            return fd
        path = self._paths.path(place)
        if path.partition(b"/")[0] in self._excluded:
            raise OSError(errno.ENOENT, "left out")
        fd = self._paths.open(path, os.O_RDONLY | os.O_NONBLOCK)  # no waiting for the writer of a FIFO
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "not a file")
        self._files[place] = fd
        if len(self._files) > OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        return fd

    def _still_open(self, place: int, status: os.stat_result) -> None:
        """A file that was replaced by another of its name is opened anew."""
        fd = self._files.get(place)
        if fd is not None and os.fstat(fd).st_ino != status.st_ino:
            os.close(self._files.pop(place))

    def read_into(self, place: int, view: memoryview, offset: int) -> int:
        return os.preadv(self._file(place), [view], offset)

    def pieces(self, place: int, offset: int, size: int) -> Iterable[tuple[int, int, int]]:
        fd = self._file(place)
        end = min(offset + size, os.fstat(fd).st_size)
        while offset < end:
            try:
                data = min(end, os.lseek(fd, offset, os.SEEK_DATA))
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                data = end  # a hole up to the end
            if data > offset:
                yield fd, -1, data - offset
            if data < end:
                hole = min(end, os.lseek(fd, data, os.SEEK_HOLE))
                yield fd, data, hole - data
                data = hole
            offset = data
