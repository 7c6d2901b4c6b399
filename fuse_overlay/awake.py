"""What a server does after an answer while one request follows another, so that the next is soon taken.

Most of what a request costs is waking: the server, then its client, each on a CPU that has just fallen idle (an exit
to the hypervisor on a virtual machine: 15 to 30 µs). Two processes that take turns on one CPU are switched between in
2 µs, but the scheduler moves who is woken to an idle CPU, so they stay together only where there is none.

With two CPUs to run on there is none as long as the other is kept from idling, by a process that gives way to everybody
(`Companion`). With more, or one, the server itself stays awake (`Lookout`)."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import time
from pathlib import Path
from typing import Protocol

_TAKEN_SECONDS = 500e-6  # a CPU that was given up and comes back later was wanted for a slice of the scheduler's
_REST_SECONDS, _LONGEST_REST_SECONDS = 0.01, 1.0
_NAME = "rl-companion"  # at most 15 bytes
_BEAT_SECONDS = 200e-6  # a companion that has not shown for so long is not running


class Awake(Protocol):
    """begin() at the first quick request after others, stay() after the answer to each, given at `answered`
    (time.monotonic()), end() at the first that is not quick."""

    def begin(self) -> None: ...

    def stay(self, answered: float) -> None: ...

    def end(self) -> None: ...


def staying_awake(fd: int, seconds: float) -> Awake:
    """For a server of /dev/fuse; a request is quick that comes within `seconds` after an answer."""
    cpus = os.sched_getaffinity(0)
    return Companion(seconds, cpus) if len(cpus) == 2 else Lookout(fd, seconds)


class Lookout:
    """Looks for a request until `seconds` have passed, giving way to whoever wants the CPU. Who is awake cannot be
    woken: where somebody takes the CPU meanwhile and computes, a request waits for the end of that one's slice. So it
    rests after that, and twice as long if it happens again soon."""

    def __init__(self, fd: int, seconds: float) -> None:
        waiting = select.poll()
        waiting.register(fd, select.POLLIN)
        self._ready = waiting.poll
        self._seconds = seconds
        self._rest = self._resting_until = 0.0

    def begin(self) -> None:
        pass

    def end(self) -> None:
        pass

    def stay(self, answered: float) -> None:
        if answered < self._resting_until:
            return
        ready, now = self._ready, time.monotonic
        until = answered + self._seconds
        while not ready(0) and now() < until:
            os.sched_yield()
        late = now()
        if late > until + _TAKEN_SECONDS:
            again = late < self._resting_until + self._rest
            self._rest = min(self._rest * 2, _LONGEST_REST_SECONDS) if again else _REST_SECONDS
            self._resting_until = late + self._rest


class Companion:
    """A process beside the server, from the first quick request on. While they come it keeps one of the two CPUs from
    idling and the server keeps to the other; so the client is left where the server is. While somebody else wants that
    CPU the companion does not run, and the server goes where the scheduler puts it. It ends with the server."""

    def __init__(self, seconds: float, cpus: set[int]) -> None:
        self._seconds = seconds
        own, other = sorted(cpus, reverse=bool(os.getpid() & 1))  # servers are not all to be on the same
        self._cpus, self._own, self._other = cpus, {own}, {other}
        shared = memoryview(mmap.mmap(-1, mmap.PAGESIZE))
        self._answered, self._beat = shared[:8].cast("d"), shared[8:16].cast("d")  # time.monotonic()
        self._at_work, self._kept = shared[16:17], shared[17:18]  # the companion; the server on its own CPU
        self._pipe = -1
        self._pid = 0

    def begin(self) -> None:
        if self._pid and _has_ended(self._pid):
            os.close(self._pipe)
            self._pid = self._at_work[0] = 0
        if not self._pid:
            self._start()

    def stay(self, answered: float) -> None:
        self._answered[0] = answered
        if not self._at_work[0] and self._pid:
            self._at_work[0] = 1
            try:
                os.write(self._pipe, b"!")
            except BrokenPipeError:
                pass  # begin() finds out
        self._keep(answered < self._beat[0] + _BEAT_SECONDS)

    def end(self) -> None:
        self._keep(False)

    def _keep(self, kept: bool) -> None:
        if kept != self._kept[0]:
            try:
                os.sched_setaffinity(0, self._own if kept else self._cpus)
            except OSError:  # its cpuset has been made smaller, or a CPU went offline
                return
            self._kept[0] = kept

    def _start(self) -> None:
        server = os.getpid()
        reading, self._pipe = os.pipe2(os.O_CLOEXEC)
        try:
            self._pid = os.fork()
        except OSError:  # there may be no more processes: it goes without
            os.close(self._pipe)
            os.close(reading)
            return
        if self._pid == 0:
            try:
                # a file that is removed while it is held here would keep its room
                os.closerange(0, reading)
                os.closerange(reading + 1, os.sysconf("SC_OPEN_MAX"))
                with contextlib.suppress(OSError):
                    Path("/proc/self/comm").write_text(_NAME)
                os.sched_setaffinity(0, self._other)
                self._accompany(server, reading)
            finally:
                os._exit(0)
        os.close(reading)

    def _accompany(self, server: int, pipe: int) -> None:
        seconds, answered, beat, now = self._seconds, self._answered, self._beat, time.monotonic
        while os.read(pipe, 64) and os.getppid() == server:
            while (moment := now()) < answered[0] + seconds:
                beat[0] = moment
                os.sched_yield()
            os.sched_setaffinity(server, self._cpus)
            self._kept[0] = self._at_work[0] = 0


def _has_ended(child: int) -> bool:
    try:
        return bool(os.waitpid(child, os.WNOHANG)[0])
    except ChildProcessError:  # who started us ignores SIGCHLD, and so do we: nothing is left to be waited for
        return True
