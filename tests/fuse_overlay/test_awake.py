"""What servers do between requests that follow each other closely."""

from __future__ import annotations

import errno
import itertools
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fuse_overlay.awake import Companion, Lookout, staying_awake
from tests.fuse_overlay.mounting import in_child

PATIENCE_SECONDS = 20.0


class Clock:
    """In place of time.monotonic and os.sched_yield: giving way takes `taken` seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.taken, self.yields = 100.0, 0.0, 0
        monkeypatch.setattr(time, "monotonic", self.monotonic)
        monkeypatch.setattr(os, "sched_yield", self.sched_yield)

    def monotonic(self) -> float:
        self.now += 1e-6
        return self.now

    def sched_yield(self) -> None:
        self.yields += 1
        self.now += self.taken


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def silent() -> Iterator[int]:
    """The end of a pipe that nothing comes from."""
    reading, writing = os.pipe()
    yield reading
    os.close(reading)
    os.close(writing)


def looks(lookout: Lookout, clock: Clock) -> bool:
    """Whether it stays awake now."""
    before = clock.yields
    lookout.stay(clock.now)
    return clock.yields > before


def test_a_server_that_is_not_disturbed_stays_awake_each_time(clock: Clock, silent: int) -> None:
    lookout = Lookout(silent, 100e-6)
    for _ in range(100):
        before = clock.now
        assert looks(lookout, clock)
        assert clock.now - before == pytest.approx(100e-6, abs=5e-6)


def test_a_server_whose_cpu_is_taken_rests_longer_and_longer(clock: Clock, silent: int) -> None:
    lookout = Lookout(silent, 100e-6)
    clock.taken = 0.002
    looked = []
    for _ in range(10):
        while not looks(lookout, clock):
            clock.now += 0.001
        looked.append(clock.now)
    rests = [after - before for before, after in itertools.pairwise(looked)]
    assert rests == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1, 1], rel=0.5)


def test_a_rest_is_short_again_when_nobody_took_the_cpu_for_long(clock: Clock, silent: int) -> None:
    lookout = Lookout(silent, 100e-6)
    clock.taken = 0.002
    for _ in range(6):
        lookout.stay(clock.now)
        clock.now += 2.5
    assert looks(lookout, clock)
    clock.now += 0.011
    assert looks(lookout, clock)


def test_a_request_ends_the_looking(clock: Clock) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"!")
    assert not looks(Lookout(reading, 100e-6), clock)
    os.close(reading)
    os.close(writing)


def two_cpus() -> set[int]:
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if len(cpus) < 2:
        pytest.skip("NEEDS TWO CPUS: the companion of a server was not tested")
    return set(cpus)


def eventually(happens: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not happens():
        assert time.monotonic() < until


def quick_requests(companion: Companion, until: Callable[[], bool]) -> None:
    def one() -> bool:
        companion.stay(time.monotonic())
        return until()

    eventually(one)


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def begun(cpus: set[int]) -> tuple[Companion, int]:
    """A companion of this process, and its pid."""
    os.sched_setaffinity(0, cpus)
    companion = Companion(1e-3, cpus)
    assert not children()  # none for a server that is hardly asked
    companion.begin()
    (pid,) = children()
    return companion, pid


def test_the_companion_is_for_two_cpus() -> None:
    cpus = two_cpus()

    def child() -> None:
        os.sched_setaffinity(0, cpus)
        assert isinstance(staying_awake(0, 1e-4), Companion)
        os.sched_setaffinity(0, {min(cpus)})
        assert isinstance(staying_awake(0, 1e-4), Lookout)

    in_child(child)


def test_while_requests_are_quick_server_and_companion_have_a_cpu_each() -> None:
    cpus = two_cpus()

    def child() -> None:
        companion, pid = begun(cpus)
        quick_requests(companion, lambda: len(os.sched_getaffinity(0)) == 1)
        assert os.sched_getaffinity(0) | os.sched_getaffinity(pid) == cpus
        eventually(lambda: os.sched_getaffinity(0) == cpus)  # a while after the last
        quick_requests(companion, lambda: len(os.sched_getaffinity(0)) == 1)
        companion.end()
        assert os.sched_getaffinity(0) == cpus
        assert children() == {pid}

    in_child(child)


def test_a_companion_that_was_killed_has_a_successor() -> None:
    cpus = two_cpus()

    def child() -> None:
        companion, first = begun(cpus)
        quick_requests(companion, lambda: len(os.sched_getaffinity(0)) == 1)
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        companion.stay(time.monotonic())
        companion.end()
        assert os.sched_getaffinity(0) == cpus
        companion.begin()
        (second,) = children()
        assert second != first
        quick_requests(companion, lambda: len(os.sched_getaffinity(0)) == 1)

    in_child(child)


def test_it_has_one_too_where_sigchld_is_ignored() -> None:
    cpus = two_cpus()

    def child() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as it was inherited
        companion, first = begun(cpus)
        os.kill(first, signal.SIGKILL)
        eventually(lambda: not children())
        companion.begin()
        assert children() - {first}

    in_child(child)


def test_a_server_that_loses_its_own_cpu_goes_on_with_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    cpus = two_cpus()
    real, lost = os.sched_setaffinity, set[int]()

    def set_affinity(pid: int, mask: set[int]) -> None:
        """As the kernel does for a smaller cpuset."""
        if mask <= lost:
            raise OSError(errno.EINVAL, "sched_setaffinity")
        real(pid, mask - lost)

    def child() -> None:
        real(0, cpus)
        companion = Companion(1e-3, cpus)
        companion.begin()
        quick_requests(companion, lambda: len(os.sched_getaffinity(0)) == 1)
        companion.end()
        lost.update(cpus - os.sched_getaffinity(children().pop()))
        monkeypatch.setattr(os, "sched_setaffinity", set_affinity)
        real(0, cpus - lost)
        until = time.monotonic() + 0.2
        quick_requests(companion, lambda: time.monotonic() > until)
        companion.end()
        assert not os.sched_getaffinity(0) <= lost

    in_child(child)


def test_a_companion_ends_with_its_server() -> None:
    cpus = two_cpus()
    reading, writing = os.pipe()
    server = os.fork()
    if server == 0:
        os.close(reading)
        companion, pid = begun(cpus)
        quick_requests(companion, lambda: len(os.sched_getaffinity(0)) == 1)
        os.write(writing, b"%d\n" % pid)
        while True:
            companion.stay(time.monotonic())
    os.close(writing)
    ended = os.pidfd_open(int(os.read(reading, 20)))
    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)
    os.close(reading)
    assert select.select([ended], [], [], PATIENCE_SECONDS)[0]
    os.close(ended)


def test_a_companion_holds_none_of_the_servers_files(tmp_path: Path) -> None:
    cpus = two_cpus()

    def child() -> None:
        with open(tmp_path / "removed", "wb"):
            companion = Companion(1e-3, cpus)
            companion.begin()
            (pid,) = children()
            eventually(lambda: len(os.listdir(f"/proc/{pid}/fd")) == 1)  # of the pipe between them
            os.sched_setaffinity(0, cpus)
            quick_requests(companion, lambda: len(os.sched_getaffinity(0)) == 1)

    in_child(child)
