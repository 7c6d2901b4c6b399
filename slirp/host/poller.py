"""The loop's readiness: descriptors and who is to be called. One epoll, and others in it for guests; no threads."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

READ, WRITE, ERROR, ENDED = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR, select.EPOLLHUP
FAILED = ERROR | ENDED
SPIN_SECONDS = 200e-6  # at most; where answers take longer, a processor is not burnt for them
_LEAST = 40e-6  # seconds to look again, however soon answers come
TURN_SECONDS = 100e-6  # of one guest while others wait
_AT_ONCE = 4  # sockets of one guest, which a turn is at least
_AT_ONCE_ALONE = 64  # where no other guest waits: the more, the fewer times a server and its clients are woken
_PIECES = 8  # large ones, of 27 µs each, in a turn of sockets
_CAP, _SMOOTHING = 1e-3, 16  # what a late answer counts for, and the share of the latest
Ready = Callable[[int], None]


class Descriptors:
    """One epoll. A callback may remove any descriptor, also one whose turn is still to come, and one that is opened
    meanwhile under the same number is not called for it."""

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

    def _call(self, ready: list[tuple[int, int]]) -> None:
        for fd, events in ready:
            if fd not in self._removed:
                self._ready[fd](events)


class Poller(Descriptors):
    """What the loop waits for.

    To sleep and be woken costs more than to look again for a little while: a request and its answer between two
    processes of one machine took 101 µs with sleep alone, 45 µs so. Callbacks therefore set `answer_expected` when
    they have passed on something small. How long answers take is learnt from each, also from those slept for: it
    differs threefold from machine to machine."""

    def __init__(self) -> None:
        super().__init__()
        self.answer_expected = False
        self.ready_count = 1  # descriptors that have their turn: if there are several, nobody should take long
        self.guest_count = 1  # whose they are
        self._owners: dict[int, Sockets] = {}  # of guests' descriptors
        self._answer_seconds = _LEAST  # what an answer takes, smoothed

    def run_once(self, timeout_seconds: float) -> None:
        """Wait, and call."""
        if self._removed:
            self._removed.clear()
        if self.answer_expected:
            self.answer_expected = False
            ready = self._epoll.poll(0, 256)
            if ready:  # already, as happens where all share one processor
                self._answer_seconds -= self._answer_seconds / _SMOOTHING
            else:
                ready = self._answer(timeout_seconds)
        else:
            ready = self._epoll.poll(timeout_seconds, 256)
        self.ready_count = self.guest_count = len(ready)
        if self.guest_count > 1:
            self.guest_count = len({self._owners.get(fd) for fd, _ in ready})
        self._call(ready)

    def add_guests(self, fd: int, owner: Sockets, ready: Ready) -> None:
        """A descriptor that a guest, whose sockets these are, is read from."""
        self._owners[fd] = owner
        self.add(fd, READ, ready)

    def remove(self, fd: int) -> None:
        self._owners.pop(fd, None)
        super().remove(fd)

    def _answer(self, timeout_seconds: float) -> list[tuple[int, int]]:
        """Wait for what should come soon."""
        poll, clock = self._epoll.poll, time.perf_counter
        expected, ready, spun = self._answer_seconds, [], False
        start = now = clock()
        if expected < SPIN_SECONDS:
            until = start + max(_LEAST, min(SPIN_SECONDS, 2 * expected))
            while now < until:
                os.sched_yield()  # who is to answer may be waiting for this very processor
                now = clock()
                if ready := poll(0, 256):
                    spun = True
                    break
        if not ready:
            ready = poll(timeout_seconds, 256)
        taken = clock() - start
        if spun and now > until:
            # on a busy machine it is others who run meanwhile, and a sleeper is woken sooner than one who has yielded
            self._answer_seconds = _CAP
        else:
            self._answer_seconds += (min(taken, _CAP) - expected) / _SMOOTHING
        return ready


class Sockets(Descriptors):
    """Those of one guest: a descriptor of the poller's like any other, so that a guest with many has no more turns than
    its neighbours with one."""

    def __init__(self, poller: Poller, owner: Sockets | None = None) -> None:
        """Of the guest whose other sockets are `owner`."""
        super().__init__()
        self._poller = poller
        self._count = 1
        poller.add_guests(self._epoll.fileno(), owner or self, self._turn)

    @property
    def alone(self) -> bool:
        """Whether no other guest has its turn now."""
        return self._poller.guest_count == 1

    @property
    def pieces(self) -> int:
        """How many large pieces each of those that have their turn may read."""
        return (_PIECES if self._poller.ready_count == 1 else _PIECES // 2) // self._count

    def _turn(self, _events: int) -> None:
        if self.alone:
            self._batch(_AT_ONCE_ALONE)
            return
        until = time.perf_counter() + TURN_SECONDS
        while self._batch(_AT_ONCE) and time.perf_counter() < until:
            pass

    def _batch(self, most: int) -> bool:
        """Whether there are more. The kernel tells last, the next time, of those it has told of now."""
        self._removed.clear()
        ready = self._epoll.poll(0, most)
        self._count = len(ready)
        self._call(ready)
        return self._count == most

    def close(self) -> None:
        """All of them have been removed."""
        self._poller.remove(self._epoll.fileno())
        self._epoll.close()
