"""Files that survive kill -9 at any line: written under a temporary name, synced, renamed; leftovers known and removed.

A temporary directory holds a lock while its maker lives, so another process can tell a leftover from work in hand.
Locks are flock(2) on files opened for writing: the kernel carries those to an NFS server as record locks, so they hold
between hosts as well."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rootless.model.errors import RootlessError

_LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def write_file(path: Path, data: bytes) -> None:
    """Replace a file's content at once. Raises OSError and leaves the old content."""
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.rename(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_new(path: Path, data: bytes) -> None:
    """A file that is not there yet, synced. Raises OSError."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(path, 0o644)


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def temporary_directory(parent: Path) -> Iterator[Path]:
    """A directory below `parent` that is removed at the end, whatever happens; a dead owner's by `remove_leftovers`."""
    path, lock = _locked_directory(parent)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _locked_directory(parent: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix="new-", dir=parent))
        try:
            lock = os.open(path / _LOCK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # taken for a leftover by another process just then
        try:
            _flock(lock, fcntl.LOCK_EX, path)
            if os.path.exists(path / _LOCK):
                return path, lock
        except BaseException:
            os.close(lock)
            shutil.rmtree(path, ignore_errors=True)
            raise
        os.close(lock)


def remove_leftovers(parent: Path) -> None:
    """Remove temporary directories whose owner is dead."""
    for path in parent.glob("new-*"):
        try:
            lock = os.open(path / _LOCK, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            _remove_unlocked(path)
            continue
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue
        finally:
            os.close(lock)


def _remove_unlocked(path: Path) -> None:
    """One without a lock: its maker was killed between its first two lines, is about to lock it, or whoever removed it
    was killed over that. The lock is the first thing that is made in it: where there are others and none, it was."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return
    except OSError:
        if not os.path.lexists(path / _LOCK):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file of its own, made if missing. Blocks; short sections only.

    Raises RootlessError where the file system has no locks."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _flock(fd, fcntl.LOCK_EX, path)
        yield
    finally:
        os.close(fd)


def _flock(fd: int, operation: int, path: Path) -> None:
    try:
        fcntl.flock(fd, operation)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise RootlessError(
            f"{path} is on a file system without locks ({error.strerror}): mount it with them (NFS: without nolock, "
            "with a lock service; Lustre: flock), or set ROOTLESS_DATA_ROOT to another"
        ) from error


def look_again(directory: Path) -> None:
    """Under a lock: see what other hosts have done to a directory. Opening one makes an NFS client ask its server
    (close-to-open consistency, nfs(5)); elsewhere it costs nothing."""
    os.close(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
