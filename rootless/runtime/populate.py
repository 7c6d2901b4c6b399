"""A new volume takes over what the image has at its place: one copy, all of it or nothing. Called by `perform`.

The copy is made beside the volume's directory and renamed over it: a volume that was cut off is empty, and filled by
the next container. The container does not run yet, so its files stand still; links among them are copied, never
followed. Ids that do not exist here (single-id mode) become ours."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat

_NAME = "_new"  # in the volume's own directory; whoever has that locked may remove it


def populate(image_directory: int, volume: str) -> None:
    """Fill the directory `volume`, if it is empty, from a directory of the image (a descriptor). Raises OSError."""
    parent = os.open(os.path.dirname(volume), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(parent, fcntl.LOCK_EX)  # two containers may begin at the same time
        with os.scandir(volume) as entries:
            if next(entries, None) is not None:
                return
        new = os.path.join(os.path.dirname(volume), _NAME)
        shutil.rmtree(new, ignore_errors=True)
        os.mkdir(new, 0o700)
        target = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _copy_directory(image_directory, target, {}, new)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        finally:
            os.close(target)
        os.rename(new, volume)
    finally:
        os.close(parent)


def _copy_directory(source: int, target: int, linked: dict[tuple[int, int], str], path: str) -> None:
    """`linked`: (device, inode) of files with several names -> the path of the first copy."""
    for name in os.listdir(source):
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        inner = os.path.join(path, name)
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=target)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            below, made = os.open(name, flags, dir_fd=source), os.open(name, flags, dir_fd=target)
            try:
                _copy_directory(below, made, linked, inner)
            finally:
                os.close(below)
                os.close(made)
            continue
        identity = status.st_dev, status.st_ino
        if status.st_nlink > 1 and (first := linked.setdefault(identity, inner)) != inner:
            os.link(first, name, dst_dir_fd=target, follow_symlinks=False)
            continue
        if kind == stat.S_IFREG:
            _copy_file(name, source, target, status)
            continue
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        elif kind == stat.S_IFIFO:
            os.mkfifo(name, 0o600, dir_fd=target)
        else:
            continue  # a device or a socket: nothing that a volume could hold for an ordinary user
        _own(name, target, status)
    _finish(source, target, os.fstat(source))


def _copy_file(name: str, source: int, target: int, status: os.stat_result) -> None:
    reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        writing = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target
        )
        try:
            offset = 0
            while sent := os.sendfile(writing, reading, offset, 1 << 30):
                offset += sent
            _finish(reading, writing, status)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _finish(source: int, target: int, status: os.stat_result) -> None:
    """Owner, attributes, mode and times, in this order: each of the first may change the ones after it."""
    try:
        os.fchown(target, status.st_uid, status.st_gid)
    except OSError:
        pass
    for name in os.listxattr(source):
        try:
            if not name.startswith("user.overlay."):
                os.setxattr(target, name, os.getxattr(source, name))
        except OSError:
            continue  # a name space or a size that the volume's file system does not take
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _own(name: str, target: int, status: os.stat_result) -> None:
    try:
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    except OSError:
        pass
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)
