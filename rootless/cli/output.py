"""Bytes from the engine to our own standard output and error."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable

from rootless.client.connection import ConnectionLost
from rootless.client.frames import STDERR, SYSTEM_ERROR, FrameReader

STDOUT_FD, STDERR_FD = 1, 2


def copy_stream(chunks: Iterable[bytes], multiplexed: bool) -> None:
    """All of a stream. Raises BrokenPipeError, and ConnectionLost where it breaks off within a frame."""
    demultiplexer = Demultiplexer(multiplexed)
    for data in chunks:
        demultiplexer.write(data)
    demultiplexer.end()


class Demultiplexer:
    """Writes a stream's bytes to where they belong; a raw stream is standard output."""

    def __init__(self, multiplexed: bool) -> None:
        self._frames = FrameReader() if multiplexed else None

    def write(self, data: bytes) -> None:
        """Raises BrokenPipeError, RootlessError where it is no such stream."""
        if self._frames is None:
            write_all(STDOUT_FD, data)
            return
        for stream, piece in self._frames.feed(data):
            write_all(STDERR_FD if stream in (STDERR, SYSTEM_ERROR) else STDOUT_FD, piece)

    def end(self) -> None:
        """Raises ConnectionLost where a frame is not whole."""
        if self._frames is not None and not self._frames.whole:
            raise ConnectionLost


def write_all(fd: int, data: bytes) -> None:
    """Every byte, also where the descriptor was made non-blocking by somebody else. Raises OSError."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            waiter = select.poll()
            waiter.register(fd, select.POLLOUT)
            waiter.poll()
