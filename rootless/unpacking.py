"""A tar put below a directory that may be hostile, or may have been made so by the tar itself: links are followed
inside of a root and never out of it, whoever makes them and when.

Called by the launcher's children, whose root is a container's, and by the command line's `cp`, whose root is the
target."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tarfile
from collections.abc import Callable

from rootless.syscalls import Syscalls
from rootless.syscalls import numbers as n

KINDS = ("not found", "invalid", "read-only", "failed")
CHUNK_BYTES = 1 << 20
_RESOLVE = n.RESOLVE_IN_ROOT | n.RESOLVE_NO_MAGICLINKS


class FilesError(Exception):
    """Cannot be done; `kind` is one of KINDS."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Root:
    """Paths inside a container's root. Every method raises OSError."""

    def __init__(self, syscalls: Syscalls, fd: int) -> None:
        self._syscalls = syscalls
        self.fd = fd

    def open(self, path: str, flags: int) -> int:
        """Links are followed inside the root, the last one only where `flags` do not say O_NOFOLLOW."""
        return self._syscalls.openat2(self.fd, path, flags, 0, _RESOLVE)

    def parent(self, path: str) -> tuple[int, str]:
        """(an O_PATH descriptor of the directory a normalised path's last component is in, that component)."""
        directory, name = os.path.split(path)
        return self.open(directory or "/", n.O_PATH | os.O_DIRECTORY), name or "."

    def is_root_file_system(self, path: str) -> bool:
        """Whether a path is on the root itself, not on a volume."""
        fd = self.open(path, n.O_PATH)
        try:
            return os.fstat(fd).st_dev == os.fstat(self.fd).st_dev
        finally:
            os.close(fd)


def kind_of(status: os.stat_result) -> int:
    return stat.S_IFMT(status.st_mode)


class Unpacker:
    """member() each of a tar's in order, then finish(). Both raise FilesError, OSError. `top` is the directory below
    the root; `replace`: a directory may take the place of a file and the other way round."""

    def __init__(self, root: Root, top: str, replace: bool) -> None:
        self._root, self._top, self._replace = root, top.rstrip("/"), replace
        self._directories: list[tuple[str, tarfile.TarInfo]] = []
        self._last: tuple[str, int] | None = None  # the directory of the last member, as the next is often there too
        os.umask(0)

    def finish(self) -> None:
        """Times and modes of directories, which their content would have changed."""
        self._forget()
        for path, member in reversed(self._directories):
            with contextlib.suppress(FileNotFoundError):
                fd = self._root.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    _dress(fd, member)
                finally:
                    os.close(fd)

    def _forget(self) -> None:
        if self._last is not None:
            os.close(self._last[1])
            self._last = None

    def member(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        relative = self._relative(member.name)
        if not relative:
            return  # the directory itself keeps its attributes
        above, _, name = relative.rpartition("/")
        if self._last is None or self._last[0] != above:
            self._forget()
            self._last = above, self._parent(above)
        self._make(archive, member, relative, self._last[1], name)
        if not member.isreg() and not member.isdir():
            self._forget()  # a link may stand for a directory of a member to come

    def _relative(self, name: str) -> str:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise FilesError("invalid", f"{name}: leads out of the target")
        return "/".join(parts)

    def _parent(self, relative: str) -> int:
        """An O_PATH descriptor of a directory below the target, made where missing."""
        path = f"{self._top}/{relative}"
        try:
            return self._root.open(path, n.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            above = self._parent(os.path.dirname(relative))
            try:
                os.mkdir(os.path.basename(relative), 0o755, dir_fd=above)
            except FileExistsError:
                raise FilesError("invalid", f"{relative}: a link that leads nowhere") from None
            finally:
                os.close(above)
            return self._root.open(path, n.O_PATH | os.O_DIRECTORY)

    def _make(self, archive: tarfile.TarFile, member: tarfile.TarInfo, relative: str, parent: int, name: str) -> None:
        if member.isdir():
            self._anew(parent, name, relative, lambda: os.mkdir(name, 0o700, dir_fd=parent), directory=True)
            self._directories.append((f"{self._top}/{relative}", member))
        elif member.isreg():
            self._file(archive, member, relative, parent, name)
        elif member.issym():
            self._anew(parent, name, relative, lambda: os.symlink(member.linkname, name, dir_fd=parent))
            if member.uid or member.gid:
                with contextlib.suppress(OSError):
                    os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
            _set_time(name, member, parent)
        elif member.islnk():
            self._hard_link(member, relative, parent, name)
        elif member.isfifo():
            self._anew(parent, name, relative, lambda: os.mkfifo(name, 0o600, dir_fd=parent))
            fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                _dress(fd, member)
            finally:
                os.close(fd)
        else:
            raise FilesError("invalid", f"{member.name}: a device cannot be made without root")

    def _anew(
        self, parent: int, name: str, relative: str, make: Callable[[], object], *, directory: bool = False
    ) -> None:
        """Make something that is not there, or in the place of what is there. Raises FilesError."""
        try:
            make()
            return
        except FileExistsError:
            there = kind_of(os.stat(name, dir_fd=parent, follow_symlinks=False))
        if there == stat.S_IFDIR and directory:
            return
        if (there == stat.S_IFDIR) != directory and not self._replace:
            what = "directory", "non-directory"
            old, new = what if there == stat.S_IFDIR else what[::-1]
            raise FilesError("invalid", f'cannot overwrite {old} "/{relative}" with {new}')
        if there == stat.S_IFDIR:
            shutil.rmtree(name, dir_fd=parent)
        else:
            os.unlink(name, dir_fd=parent)
        make()

    def _file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, relative: str, parent: int, name: str) -> None:
        create = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        made: list[int] = []
        try:
            mode = member.mode & 0o777
            self._anew(parent, name, relative, lambda: made.append(os.open(name, create, mode, dir_fd=parent)))
        except OSError as error:
            if error.errno != errno.EBUSY:  # a file that is mounted: written in place
                raise
            made.append(os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent))
        (fd,) = made
        try:
            content = archive.extractfile(member)
            while content is not None and (data := content.read(CHUNK_BYTES)):
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            _dress(fd, member)
        finally:
            os.close(fd)

    def _hard_link(self, member: tarfile.TarInfo, relative: str, parent: int, name: str) -> None:
        target = self._relative(member.linkname)
        source = self._parent(os.path.dirname(target))
        try:
            base = os.path.basename(target)
            if _kind(source, base) != stat.S_IFREG:
                raise FilesError("invalid", f"{member.name}: hard link to {member.linkname}, which is no file there")

            def link() -> None:
                os.link(base, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

            self._anew(parent, name, relative, link)
        finally:
            os.close(source)


def _kind(parent: int, name: str) -> int:
    """The type of what has a name in a directory, 0 for nothing."""
    try:
        return kind_of(os.stat(name, dir_fd=parent, follow_symlinks=False))
    except FileNotFoundError:
        return 0


def _dress(fd: int, member: tarfile.TarInfo) -> None:
    """Attributes of something that we have just made as root's, with the permissions it is to have."""
    status = os.fstat(fd)
    if (status.st_uid, status.st_gid) != (member.uid, member.gid):
        try:
            os.fchown(fd, member.uid, member.gid)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM):  # an id that does not exist here
                raise
        status = os.fstat(fd)
    if stat.S_IMODE(status.st_mode) != member.mode & 0o7777:
        os.fchmod(fd, member.mode & 0o7777)
    for key, value in member.pax_headers.items():
        if key.startswith("SCHILY.xattr."):
            with contextlib.suppress(OSError):
                os.setxattr(fd, key.removeprefix("SCHILY.xattr."), value.encode("utf-8", "surrogateescape"))
    _set_time(fd, member)


def _set_time(what: int | str, member: tarfile.TarInfo, parent: int | None = None) -> None:
    moment = int(member.mtime * 10**9)
    with contextlib.suppress(OSError, OverflowError):
        if parent is None:
            os.utime(what, ns=(moment, moment))
        else:
            os.utime(what, ns=(moment, moment), dir_fd=parent, follow_symlinks=False)
