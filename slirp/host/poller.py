"""The loop's readiness: descriptors and who is to be called. One epoll, no threads."""

from __future__ import annotations

import select
from collections.abc import Callable

READ, WRITE, FAILED = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR | select.EPOLLHUP
Ready = Callable[[int], None]


class Poller:
    """A callback may remove any descriptor, also one whose turn is still to come, and one that is opened meanwhile
    under the same number is not called for it."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Ready] = {}
        self._removed: set[int] = set()  # since the last wait

    def add(self, fd: int, events: int, ready: Ready) -> None:
        self._ready[fd] = ready
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        if self._ready.pop(fd, None) is not None:
            self._removed.add(fd)
            self._epoll.unregister(fd)

    def run_once(self, timeout_seconds: float) -> None:
        """Wait, and call."""
        self._removed.clear()
        for fd, events in self._epoll.poll(timeout_seconds, 256):
            if fd not in self._removed:
                self._ready[fd](events)
