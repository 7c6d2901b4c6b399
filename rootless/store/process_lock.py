"""A lock that one process holds for as long as it lives, and that says who does.

A record lock (fcntl(2), F_SETLK): the kernel gives it back however its holder ends, and forks do not inherit it. The
file's text is the holder's: its pid, then what it wants to say."""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

_FLOCK = "hhqqi4x"  # struct flock: type, whence, start, length, pid
MAX_TEXT_BYTES = 8192


@dataclass(frozen=True)
class Holder:
    """Who has a lock. `text` is None for the moment between taking the lock and writing it, or where `pid` is
    of another pid namespace."""

    pid: int
    text: str | None


def take(path: Path, text: str) -> int | None:
    """The descriptor to keep open; None where another process has the lock. Raises OSError.

    A process must not open the file a second time: closing any descriptor of it gives the lock back."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, says fcntl(2)
        os.close(fd)
        return None
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n{text}".encode("utf-8", "surrogateescape"), 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def holder(path: Path) -> Holder | None:
    """Who has the lock, None for nobody. Not for the process that may have it itself. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
        if kind == fcntl.F_UNLCK:
            return None
        written, separator, text = os.pread(fd, MAX_TEXT_BYTES, 0).decode("utf-8", "surrogateescape").partition("\n")
        return Holder(pid, text if separator and written == str(pid) else None)
    finally:
        os.close(fd)
