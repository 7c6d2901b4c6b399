"""stat, read and write of paths as a container sees them: the halves of `cp`. Called by `container_files`.

docker's rules: the last component of a path is not followed unless the path ends in `/` or `/.`; what is read comes as
a tar whose members begin with the last component; what is written is a tar put below a directory."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import fuse_overlay
from rootless.launcher.container_files import MAX_DEPTH, clean
from rootless.syscalls import numbers as n
from rootless.unpacking import CHUNK_BYTES, FilesError, Root, Unpacker, kind_of

# os.FileMode of Go
_GO_TYPES = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
}
_GO_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def stat_path(root: Root, path: str) -> dict[str, Any]:
    """The value of X-Docker-Container-Path-Stat. Raises FilesError (not found), OSError."""
    wanted = clean(path)
    status, _ = _look(root, wanted)
    mode = stat.S_IMODE(status.st_mode) & 0o777 | _GO_TYPES.get(kind_of(status), 0)
    mode |= sum(go for bit, go in _GO_BITS if status.st_mode & bit)
    moment = datetime.fromtimestamp(status.st_mtime_ns // 10**9, UTC)
    return {
        "name": os.path.basename(wanted.removesuffix("/.").rstrip("/")) or "/",
        "size": status.st_size,
        "mode": mode,
        "mtime": f"{moment:%Y-%m-%dT%H:%M:%S}.{status.st_mtime_ns % 10**9:09d}Z",
        "linkTarget": _link_target(root, wanted) if stat.S_ISLNK(status.st_mode) else "",
    }


def _look(root: Root, path: str) -> tuple[os.stat_result, int]:
    """(status, an O_PATH descriptor). Raises FilesError."""
    follow = path.endswith(("/", "/."))
    try:
        fd = root.open(path, n.O_PATH | (0 if follow else os.O_NOFOLLOW))
    except OSError as error:
        if error.errno in _MISSING:
            raise FilesError("not found", f"Could not find the file {path}") from error
        raise
    return os.fstat(fd), fd


def _link_target(root: Root, path: str) -> str:
    """Where a link leads in the end, as a path in the container."""
    for _ in range(40):
        try:
            parent, name = root.parent(path)
        except OSError:
            return path  # to nowhere
        try:
            path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(name, dir_fd=parent)))
        except OSError:
            return path
        finally:
            os.close(parent)
    return path


# ---------------------------------------------------------------------------------------------------- read
def read_path(root: Root, path: str, out: int) -> None:
    """A tar of a file, or of a directory and all below. Raises FilesError, OSError."""
    wanted = clean(path)
    status, fd = _look(root, wanted)
    os.close(fd)
    reader = _Reader(out)
    if stat.S_ISDIR(status.st_mode):
        name = "." if wanted == "/" or wanted.endswith("/.") else os.path.basename(wanted.rstrip("/"))
        sys.setrecursionlimit(4 * MAX_DEPTH)
        reader.directory(root.open(wanted, os.O_RDONLY | os.O_DIRECTORY), os.fsencode(name), 0)
    else:
        parent, base = root.parent(wanted.rstrip("/"))
        reader.member(parent, os.fsencode(base), os.fsencode(base), 0)
    reader.end()


@contextlib.contextmanager
def _named(path: bytes) -> Iterator[None]:
    """Say which file it was."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None or b"/" not in os.fsencode(str(error.filename)):
            raise type(error)(error.errno, error.strerror, os.fsdecode(path)) from error
        raise


class _Reader:
    def __init__(self, out: int) -> None:
        self._tar = fuse_overlay.TarWriter(out)
        self._links: dict[tuple[int, int], bytes] = {}
        self.end = self._tar.end

    def directory(self, fd: int, path: bytes, depth: int) -> None:
        """Takes the descriptor over."""
        if depth > MAX_DEPTH:
            raise FilesError("invalid", f"directories are nested more than {MAX_DEPTH} deep")
        try:
            self._tar.add(_entry(os.fstat(fd), b"" if path == b"." else path, _xattrs(fd)))
            for name in sorted(os.fsencode(name) for name in os.listdir(fd)):
                self.member(fd, name, path + b"/" + name, depth + 1)
        finally:
            os.close(fd)

    def member(self, parent: int, name: bytes, path: bytes, depth: int) -> None:
        path = path.removeprefix(b"./")
        with contextlib.suppress(FileNotFoundError), _named(path):
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                self.directory(os.open(name, flags, dir_fd=parent), path, depth)
            elif stat.S_ISREG(status.st_mode):
                self._file(parent, name, path)
            elif not stat.S_ISSOCK(status.st_mode):
                link = os.readlink(name, dir_fd=parent) if stat.S_ISLNK(status.st_mode) else b""
                self._tar.add(_entry(status, path, link=link))

    def _file(self, parent: int, name: bytes, path: bytes) -> None:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return
            key = status.st_dev, status.st_ino
            if status.st_nlink > 1 and (first := self._links.get(key)) is not None:
                entry = _entry(status, path, link=first)
                entry.hard_link, entry.size = True, 0
                self._tar.add(entry)
                return
            self._links[key] = path
            self._tar.add(_entry(status, path, _xattrs(fd)), fd)
        finally:
            os.close(fd)


def _entry(
    status: os.stat_result, path: bytes, xattrs: dict[bytes, bytes] | None = None, link: bytes = b""
) -> fuse_overlay.Entry:
    return fuse_overlay.Entry(
        path,
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_size if stat.S_ISREG(status.st_mode) else 0,
        status.st_mtime_ns,
        status.st_rdev,
        link=link,
        xattrs=xattrs or {},
    )


def _xattrs(fd: int) -> dict[bytes, bytes]:
    kept: dict[bytes, bytes] = {}
    with contextlib.suppress(OSError):
        for name in os.listxattr(fd):
            if name.startswith("user.") or name == "security.capability":
                kept[os.fsencode(name)] = os.getxattr(fd, name)
    return kept


# ---------------------------------------------------------------------------------------------------- write
def write_path(root: Root, path: str, source: int, *, replace: bool) -> None:
    """Unpack a tar below a directory. Raises FilesError, OSError."""
    wanted = clean(path)
    status, fd = _look(root, wanted.removesuffix("/.").rstrip("/") + "/")
    if not stat.S_ISDIR(status.st_mode):
        raise FilesError("invalid", f"extraction point is not a directory: {wanted}")
    if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    os.close(fd)
    try:
        with tarfile.open(fileobj=os.fdopen(source, "rb", closefd=False), mode="r|*", bufsize=CHUNK_BYTES) as archive:
            writer = Unpacker(root, wanted.removesuffix("/."), replace)
            for member in archive:
                writer.member(archive, member)
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            writer.finish()
    except (tarfile.TarError, EOFError) as error:
        raise FilesError("invalid", f"the archive cannot be read: {error}") from error
    while os.read(source, CHUNK_BYTES):
        pass  # what follows the archive's end
