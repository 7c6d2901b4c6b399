"""One poll for everything the launcher waits for. Owned by `server`, which runs it."""

from __future__ import annotations

import select
from collections.abc import Callable


class Loop:
    """Calls what belongs to a descriptor when that is readable (or has ended), and when it can be written to again."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._writers: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, reader: Callable[[], None]) -> None:
        self._readers[fd] = reader
        self._poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        del self._readers[fd]
        self._writers.pop(fd, None)
        self._poll.unregister(fd)

    def when_writable(self, fd: int, writer: Callable[[], None] | None) -> None:
        """Of a watched descriptor; None: no more."""
        if writer is None:
            self._writers.pop(fd, None)
        else:
            self._writers[fd] = writer
        self._poll.modify(fd, select.POLLIN | (select.POLLOUT if writer else 0))

    def turn(self, timeout_ms: float | None) -> None:
        """Wait once, for so many milliseconds at most (None: for ever)."""
        for fd, events in self._poll.poll(timeout_ms):
            if events & select.POLLOUT and (writer := self._writers.get(fd)):
                writer()
            if events & ~select.POLLOUT and (reader := self._readers.get(fd)):
                reader()
