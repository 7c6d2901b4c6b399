"""The loop's readiness: descriptors and who is to be called. One epoll, no threads."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

READ, WRITE, ERROR, ENDED = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR, select.EPOLLHUP
FAILED = ERROR | ENDED
SPIN_SECONDS = 40e-6
_PATIENCE, _SELDOM = 8, 64
Ready = Callable[[int], None]


class Poller:
    """A callback may remove any descriptor, also one whose turn is still to come, and one that is opened meanwhile
    under the same number is not called for it.

    To sleep and be woken costs more than to look again for a little while: a request and its answer between two
    processes of one machine took 101 µs with sleep alone, 45 µs so. Callbacks therefore set `answer_expected` when
    they have passed on something small; where answers do not come that soon, it is tried ever more seldom."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Ready] = {}
        self._removed: set[int] = set()  # since the last wait
        self.answer_expected = False
        self.others_wait = False  # more than one descriptor is ready: nobody should take long
        self._in_vain = 0

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
        ready = self._spin() if self.answer_expected else []
        ready = ready or self._epoll.poll(timeout_seconds, 256)
        self.others_wait = len(ready) > 1
        for fd, events in ready:
            if fd not in self._removed:
                self._ready[fd](events)

    def _spin(self) -> list[tuple[int, int]]:
        self.answer_expected = False
        self._in_vain += 1
        if self._in_vain > _PATIENCE and self._in_vain % _SELDOM:
            return []
        poll = self._epoll.poll
        until = time.perf_counter() + SPIN_SECONDS
        while not (ready := poll(0, 256)):
            if time.perf_counter() > until:
                return []
            os.sched_yield()  # who is to answer may be waiting for this very processor
        # on a busy machine it is others who run meanwhile, and a sleeper is woken sooner than one who has yielded
        self._in_vain = 0 if time.perf_counter() <= until else max(self._in_vain, _PATIENCE)
        return ready
