"""Copy-up: what a lower layer has is written to the upper with everything that belongs to it, before it is changed.

Made in the work directory, then renamed into place: a crash leaves the whole copy or none. Called by `union_tree`."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from fuse_overlay.lower import Lower
from fuse_overlay.union import marks
from fuse_overlay.upper import Upper, set_times
from fuse_overlay.wire import structs as w

_FICLONE = 0x40049409  # include/uapi/linux/fs.h
_CHUNK = 1 << 20


def directory(upper: Upper, lower: Lower, place: int, target_fd: int, name: bytes) -> None:
    """An empty directory like the lower's. Raises OSError."""
    temporary = upper.temporary()
    os.mkdir(temporary, 0o700, dir_fd=upper.work)
    try:
        fd = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=upper.work)
        try:
            _dress(upper, lower, place, fd, nodeid=0)
        finally:
            os.close(fd)
        _put(upper, temporary, target_fd, name)
    except OSError:
        os.rmdir(temporary, dir_fd=upper.work)
        raise


def file(
    upper: Upper, lower: Lower, place: int, target_fd: int, name: bytes, nodeid: int, size: int
) -> tuple[os.stat_result, bool]:
    """A non-directory, over whatever whiteout is there; of its content `size` bytes at most.

    Returns its status, and whether it is the same file as before: the copy of one of several names of a file is not.
    Raises OSError."""
    temporary = upper.temporary()
    mode = lower.mode(place)
    try:
        if stat.S_ISREG(mode):
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=upper.work)
            try:
                _copy(lower, place, fd, size)
                _dress(upper, lower, place, fd, nodeid)
            finally:
                os.close(fd)
        else:
            _special(upper, lower, place, temporary, mode)
        status = os.stat(temporary, dir_fd=upper.work, follow_symlinks=False)
        _put(upper, temporary, target_fd, name)
        return status, w.ATTR.unpack(lower.attributes(place))[10] <= 1
    except OSError:
        try:
            os.unlink(temporary, dir_fd=upper.work)
        except FileNotFoundError:
            pass
        raise


def unlinked(upper: Upper, lower: Lower, place: int) -> int:
    """A descriptor of a copy without a name. Raises OSError."""
    temporary = upper.temporary()
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=upper.work)
    try:
        os.unlink(temporary, dir_fd=upper.work)
        if stat.S_ISREG(lower.mode(place)):
            _copy(lower, place, fd, 1 << 62)
        _dress(upper, lower, place, fd, nodeid=0)
    except OSError:
        os.close(fd)
        raise
    return fd


def _put(upper: Upper, temporary: bytes, target_fd: int, name: bytes) -> None:
    """Into its directory, whose times stay: nothing has changed that anybody can see."""
    before = os.fstat(target_fd)
    os.rename(temporary, name, src_dir_fd=upper.work, dst_dir_fd=target_fd)
    set_times(target_fd, None, before.st_atime_ns, before.st_mtime_ns)


def _special(upper: Upper, lower: Lower, place: int, name: bytes, mode: int) -> None:
    fields = w.ATTR.unpack(lower.attributes(place))
    if stat.S_ISLNK(mode):
        os.symlink(lower.link(place), name, dir_fd=upper.work)
    else:
        os.mknod(name, mode, fields[13], dir_fd=upper.work)
    uid, gid = fields[11], fields[12]
    if uid or gid:
        upper.give(upper.work, name, uid, gid, bare=True)
    if not stat.S_ISLNK(mode):
        os.chmod(name, stat.S_IMODE(mode), dir_fd=upper.work)
    set_times(upper.work, name, *_times(fields))


def _dress(upper: Upper, lower: Lower, place: int, fd: int, nodeid: int) -> None:
    """Xattrs, owner, mode and times, in the order in which none undoes another."""
    fields = w.ATTR.unpack(lower.attributes(place))
    mode, uid, gid = fields[9], fields[11], fields[12]
    if uid or gid:
        upper.give(fd, None, uid, gid, bare=True)
    real = lower.owner(place)
    if real != (uid, gid):
        os.setxattr(fd, marks.OWNER, marks.owner_value(marks.Owner(*real, mode)))
    for name, value in lower.xattrs(place).items():
        if marks.is_hidden(name):
            continue
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL):
                raise
    if nodeid and fields[10] <= 1:
        try:
            origin = marks.Origin(lower.identity, lower.session, nodeid, fields[0])
            os.setxattr(fd, marks.ORIGIN, marks.origin_value(origin))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                raise
    os.fchmod(fd, stat.S_IMODE(mode))
    set_times(fd, None, *_times(fields))


def _times(fields: tuple[int, ...]) -> tuple[int, int]:
    def nanoseconds(seconds: int, rest: int) -> int:
        return (seconds - (1 << 64) if seconds >> 63 else seconds) * 10**9 + rest

    return nanoseconds(fields[3], fields[6]), nanoseconds(fields[4], fields[7])


def _copy(lower: Lower, place: int, target: int, most: int) -> None:
    """The content: cloned where the file system can, holes kept. Raises OSError."""
    size = min(most, w.ATTR.unpack(lower.attributes(place))[1])
    os.ftruncate(target, size)
    position = 0
    for source, at, length in lower.pieces(place, 0, size):
        if at == 0 and length == size == os.fstat(source).st_size:
            try:
                fcntl.ioctl(target, _FICLONE, source)
                return
            except OSError:
                pass
        if at >= 0:
            _copy_range(source, at, target, position, length)
        position += length


def _copy_range(source: int, source_at: int, target: int, target_at: int, size: int) -> None:
    while size:
        try:
            done = os.copy_file_range(source, target, min(size, 1 << 30), source_at, target_at)
        except OSError as error:
            if error.errno not in (
                errno.EXDEV,
                errno.EINVAL,
                errno.ENOSYS,
                errno.EOPNOTSUPP,
                errno.EACCES,
                errno.EPERM,
            ):
                raise
            data = os.pread(source, min(size, _CHUNK), source_at)
            done = os.pwrite(target, data, target_at)
        if not done:
            raise OSError(errno.EIO, "the layer is shorter than its index says")
        source_at, target_at, size = source_at + done, target_at + done, size - done
