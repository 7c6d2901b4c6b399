"""Files that survive kill -9 at any line: written under a temporary name, synced, renamed; leftovers known and removed.

A temporary directory holds a lock while its maker lives, so another process can tell a leftover from work in hand."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = ".lock"


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


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def temporary_directory(parent: Path) -> Iterator[Path]:
    """A directory below `parent` that is removed at the end, whatever happens; a dead owner's by `remove_leftovers`."""
    path = Path(tempfile.mkdtemp(prefix="new-", dir=parent))
    lock = os.open(path / _LOCK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def remove_leftovers(parent: Path) -> None:
    """Remove temporary directories whose owner is dead."""
    for path in parent.glob("new-*"):
        try:
            lock = os.open(path / _LOCK, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            # killed between its first two lines, or about to lock: only an empty one can be removed safely
            try:
                path.rmdir()
            except OSError:
                pass
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file of its own, made if missing. Blocks; short sections only."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
