"""Archives between files (or standard input and output) and the engine, piece by piece."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from rootless.cli.output import STDOUT_FD, write_all
from rootless.model.errors import InvalidParameter

CHUNK_BYTES = 256 << 10


def read_chunks(path: str | None) -> Iterator[bytes]:
    """A file's bytes, standard input's where there is no path. The file is opened now: OSError comes before a request
    is sent."""
    fd = 0 if path is None else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return _chunks(fd, close=path is not None)


def _chunks(fd: int, close: bool) -> Iterator[bytes]:
    try:
        while data := os.read(fd, CHUNK_BYTES):
            yield data
    finally:
        if close:
            os.close(fd)


def write_archive(chunks: Iterable[bytes], path: str | None, what: str) -> None:
    """Write to a file, which appears when it is whole, or to standard output. Raises OSError, InvalidParameter."""
    if path is None:
        if os.isatty(STDOUT_FD):
            raise InvalidParameter(f"cowardly refusing to {what} to a terminal. Use the -o flag or redirect")
        for data in chunks:
            write_all(STDOUT_FD, data)
        return
    temporary = f"{path}.{os.getpid()}.part"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for data in chunks:
            try:
                write_all(fd, data)
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from error
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)
