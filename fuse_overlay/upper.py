"""The upper and the work directory: what is written there, and how, so that a crash leaves the old or the new.

Directories are reached by descriptors (a bounded number is open, the rest is opened again from their parents), never by
paths from the top. Knows nodes, but no layers below and no requests."""

from __future__ import annotations

import collections
import ctypes
import errno
import os
import resource
import stat
from collections.abc import Iterator

from fuse_overlay.nodes import Directory, File
from fuse_overlay.union import marks

WORK_NAME = "rootless"  # ours in the work directory; overlayfs has "work" and "index"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_UTIME_OMIT, _UTIME_NOW = (1 << 30) - 2, (1 << 30) - 1  # include/linux/stat.h
_AT_SYMLINK_NOFOLLOW = 0x100
_RENAMEAT2 = {"x86_64": 316, "aarch64": 276, "riscv64": 276, "ppc64le": 357, "s390x": 347}.get(os.uname().machine, 276)
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
RENAME_EXCHANGE = 2

_TimeSpecs = ctypes.c_int64 * 4


def rename2(source_fd: int, source: bytes, target_fd: int, target: bytes, flags: int) -> None:
    """renameat2(2). Raises OSError."""
    if _libc.syscall(_RENAMEAT2, source_fd, source, target_fd, target, flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def set_times(directory_fd: int, name: bytes | None, access_ns: int | None, modify_ns: int | None) -> None:
    """utimensat(2) that leaves a time of None alone and takes -1 as now; `name` None: the descriptor itself.

    Raises OSError."""
    times = _TimeSpecs()
    for position, moment in ((0, access_ns), (2, modify_ns)):
        if moment is None:
            times[position + 1] = _UTIME_OMIT
        elif moment == NOW:
            times[position + 1] = _UTIME_NOW
        else:
            times[position], times[position + 1] = divmod(moment, 10**9)
    if name is None:
        failed = _libc.futimens(directory_fd, times)
    else:
        failed = _libc.utimensat(directory_fd, name, times, _AT_SYMLINK_NOFOLLOW)
    if failed:
        raise OSError(ctypes.get_errno(), "utimensat")


NOW = -(1 << 80)


def _mount_of(fd: int) -> str:
    """Nothing can be renamed from one mount to another, even of one file system (proc(5), fdinfo)."""
    with open(f"/proc/self/fdinfo/{fd}") as lines:
        return next((line for line in lines if line.startswith("mnt_id:")), "")


class Upper:
    """`id_count`: ids from there on do not exist in our user namespace; what has them is ours, with a mark.

    Raises OSError naming the directory where one cannot be used."""

    def __init__(self, upper: str, work: str, id_count: int) -> None:
        self.root = os.open(upper, _DIRECTORY)
        os.makedirs(os.path.join(work, WORK_NAME), mode=0o700, exist_ok=True)
        self.work = os.open(os.path.join(work, WORK_NAME), _DIRECTORY)
        if _mount_of(self.root) != _mount_of(self.work):
            raise OSError(errno.EXDEV, "the work directory must be on the mount of the upper one", work)
        self.id_count = id_count
        self.marks_owners = id_count == 1 or os.geteuid() != 0
        self.shows_owners = self.marks_owners and id_count > 1  # with one id everything is shown as root's
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit[1], limit[1]))
        room = min(limit[1], 65536)
        self.most_directories = max(16, room // 4)
        self.most_files = max(16, room // 4)
        self.most_kept = max(16, room // 4)
        self._directories: collections.OrderedDict[Directory, None] = collections.OrderedDict()
        self._files: collections.OrderedDict[File, None] = collections.OrderedDict()
        self._count = 0
        self._kept = 0
        self.device = os.fstat(self.root).st_dev

    # ------------------------------------------------------------------------------------------------ descriptors
    def directory_fd(self, directory: Directory) -> int:
        """Of a directory that is in the upper. Valid until the next call. Raises OSError."""
        if directory.fd >= 0:
            if directory.parent is not None and not directory.gone:
                self._directories.move_to_end(directory)
            return directory.fd
        if directory.parent is None:
            directory.fd = self.root
            return self.root
        chain = [directory]
        while (above := chain[-1].parent) is not None and above.fd < 0:
            chain.append(above)
        for node in reversed(chain):
            above = node.parent
            node.fd = self.root if above is None else os.open(node.name, _DIRECTORY, dir_fd=above.fd)
            if above is not None:
                self._directories[node] = None
        while len(self._directories) > self.most_directories:
            oldest = next(iter(self._directories))
            if oldest is directory:
                break
            self.close_directory(oldest)
        return directory.fd

    def close_directory(self, directory: Directory) -> None:
        if directory.fd >= 0 and directory.fd != self.root:
            if directory in self._directories:
                del self._directories[directory]
            else:
                self._kept -= 1
            os.close(directory.fd)
            directory.fd = -1

    def file_fd(self, file: File) -> int:
        """Of a regular file that is in the upper, for reading and writing. Raises OSError."""
        if file.fd >= 0:
            if not file.kept:
                self._files.move_to_end(file)
            return file.fd
        directory, name = self.place(file)
        self.keep_open(file, os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory))
        return file.fd

    def keep_open(self, file: File, fd: int) -> None:
        file.fd = fd
        self._files[file] = None
        if len(self._files) > self.most_files:
            oldest, _ = self._files.popitem(last=False)
            os.close(oldest.fd)
            oldest.fd = -1

    def close_file(self, file: File) -> None:
        if file.fd >= 0:
            self._files.pop(file, None)
            os.close(file.fd)
            self._kept -= file.kept
            file.fd, file.kept = -1, False
        if file.held >= 0:
            os.close(file.held)
            self._kept -= 1
            file.held = -1

    # A node id is made of an inode number: what the kernel still knows must not give its inode to another, so
    # something of it stays open when its last name goes, until the kernel forgets it.
    @property
    def may_keep(self) -> bool:
        """Whether there is room for one descriptor more of what has no name left."""
        return self._kept < self.most_kept

    def keep_file(self, file: File, fd: int) -> None:
        """The last name of a regular file goes, or it never had one."""
        self._files.pop(file, None)
        file.fd, file.kept = fd, True
        self._kept += 1

    def keep_open_again(self, file: File) -> None:
        """One that was kept has a name."""
        self._kept -= 1
        file.kept = False
        self.keep_open(file, file.fd)

    def hold(self, file: File) -> None:
        """What is no regular file loses its last name. Raises OSError."""
        if file.held < 0 and self.may_keep:
            directory, name = self.place(file)
            file.held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            self._kept += 1

    def keep_directory(self, directory: Directory) -> None:
        """One that was open when it was removed."""
        if directory.fd >= 0 and self.may_keep:
            del self._directories[directory]
            self._kept += 1
        else:
            self.close_directory(directory)

    def place(self, file: File) -> tuple[int, bytes]:
        """(directory's descriptor, name) of one of its names. Raises OSError (ENOENT: it has none)."""
        for directory, name in file.places:
            return (self.work if directory.id == 0 else self.directory_fd(directory)), name
        raise OSError(errno.ENOENT, "unlinked")

    # ------------------------------------------------------------------------------------------------ entries
    def status(self, directory: Directory, name: bytes) -> os.stat_result | None:
        """None where the upper has no such name. Raises OSError."""
        try:
            return os.stat(name, dir_fd=self.directory_fd(directory), follow_symlinks=False)
        except FileNotFoundError:
            return None

    def scan(self, directory: Directory) -> Iterator[tuple[bytes, bool]]:
        """(name, is it a whiteout) of every entry. Raises OSError."""
        fd = self.directory_fd(directory)
        marked = self.xattr(fd, b"", marks.OPAQUE) == b"x"
        with os.scandir(fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if entry.is_dir(follow_symlinks=False) or entry.is_symlink():
                    yield name, False
                elif entry.is_file(follow_symlinks=False):
                    yield name, marked and self.xattr(fd, name, marks.WHITEOUT) is not None
                else:
                    status = entry.stat(follow_symlinks=False)
                    yield name, marks.is_whiteout(status.st_mode, status.st_rdev)

    def is_whiteout(self, directory: Directory, name: bytes, status: os.stat_result) -> bool:
        if stat.S_ISCHR(status.st_mode):
            return status.st_rdev == 0
        if status.st_size == 0 and stat.S_ISREG(status.st_mode) and directory.lowers:
            fd = self.directory_fd(directory)
            return self.xattr(fd, name, marks.WHITEOUT) is not None and self.xattr(fd, b"", marks.OPAQUE) == b"x"
        return False

    def xattr(self, directory_fd: int, name: bytes, attribute: bytes) -> bytes | None:
        """Of an entry, or of the directory where `name` is empty; None where it has none."""
        try:
            if not name:
                return os.getxattr(directory_fd, attribute)
            return os.getxattr(b"/proc/self/fd/%d/%s" % (directory_fd, name), attribute, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM, errno.ENOENT):
                return None
            raise

    # ------------------------------------------------------------------------------------------------ changes
    def temporary(self) -> bytes:
        """A name in the work directory that is free."""
        self._count += 1
        return b"#%x" % self._count

    def whiteout(self, directory_fd: int, name: bytes) -> None:
        """Where the upper has nothing. Raises OSError."""
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory_fd)

    def replace_by_whiteout(self, directory_fd: int, name: bytes) -> None:
        """A non-directory of the upper, in one step. Raises OSError."""
        temporary = self.temporary()
        os.mknod(temporary, stat.S_IFCHR, 0, dir_fd=self.work)
        self.move_in(temporary, directory_fd, name)

    def move_in(self, temporary: bytes, directory_fd: int, name: bytes) -> None:
        """From the work directory over whatever non-directory is there. Raises OSError, the temporary removed."""
        try:
            os.rename(temporary, name, src_dir_fd=self.work, dst_dir_fd=directory_fd)
        except OSError:
            os.unlink(temporary, dir_fd=self.work)
            raise

    def exchange_directory_for_whiteout(self, directory_fd: int, name: bytes) -> None:
        """A directory of the upper that shows nothing (it may hold whiteouts). Raises OSError."""
        temporary = self.temporary()
        os.mknod(temporary, stat.S_IFCHR, 0, dir_fd=self.work)
        try:
            rename2(self.work, temporary, directory_fd, name, RENAME_EXCHANGE)
        except OSError:
            os.unlink(temporary, dir_fd=self.work)
            raise
        self.clear(temporary)

    def take_away(self, directory_fd: int, name: bytes) -> None:
        """Remove a directory that shows nothing; it is gone in one step. Raises OSError."""
        try:
            os.rmdir(name, dir_fd=directory_fd)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            temporary = self.temporary()
            os.rename(name, temporary, src_dir_fd=directory_fd, dst_dir_fd=self.work)
            self.clear(temporary)

    def clear(self, temporary: bytes) -> None:
        """Remove a directory of the work directory with the whiteouts in it; what fails is left for the next start."""
        try:
            fd = os.open(temporary, _DIRECTORY, dir_fd=self.work)
            try:
                for name in os.listdir(fd):
                    os.unlink(name, dir_fd=fd)
            finally:
                os.close(fd)
            os.rmdir(temporary, dir_fd=self.work)
        except OSError:
            return

    def clear_work(self) -> None:
        """What an earlier server has left half done."""
        import shutil

        for name in os.listdir(self.work):
            try:
                os.unlink(name, dir_fd=self.work)
            except IsADirectoryError:
                shutil.rmtree(f"/proc/self/fd/{self.work}/{name}", ignore_errors=True)
            except OSError:
                continue

    def give(self, fd: int, name: bytes | None, uid: int, gid: int, *, bare: bool = False) -> None:
        """To an owner, -1: as it is. Where the host's user may not, the file keeps a mark of whose it is; a `bare` one
        has none yet.

        `name` in the directory `fd`, or None for the descriptor itself. Raises OSError."""
        given = True
        try:
            if name is None:
                os.fchown(fd, uid, gid)
            else:
                os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if not self.marks_owners or error.errno not in (errno.EPERM, errno.EINVAL):
                raise
            given = False
        mark = None if bare else self.xattr(fd, name or b"", marks.OWNER)
        if given and mark is None:
            return
        status = os.fstat(fd) if name is None else os.stat(name, dir_fd=fd, follow_symlinks=False)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            return  # nothing else takes a mark
        path = fd if name is None else b"/proc/self/fd/%d/%s" % (fd, name)
        known = (marks.parse_owner(mark) if mark else None) or marks.Owner(status.st_uid, status.st_gid, 0)
        owner = marks.Owner(known.uid if uid < 0 else uid, known.gid if gid < 0 else gid, status.st_mode)
        if given and (owner.uid, owner.gid) == (status.st_uid, status.st_gid):
            os.removexattr(path, marks.OWNER)
            return
        os.setxattr(path, marks.OWNER, marks.owner_value(owner))
        kept = status.st_mode if given else _without_set_ids(status.st_mode)
        if kept != status.st_mode:
            os.chmod(path, stat.S_IMODE(kept))

    def owner(self, fd: int, name: bytes | None, status: os.stat_result) -> marks.Owner:
        """Whose a file is by its mark, else by itself."""
        value = self.xattr(fd, name or b"", marks.OWNER)
        return (marks.parse_owner(value) if value else None) or marks.Owner(
            status.st_uid, status.st_gid, status.st_mode
        )


def _without_set_ids(mode: int) -> int:
    """What chown(2) leaves of a mode."""
    if stat.S_ISDIR(mode):
        return mode
    return mode & ~(stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0))
