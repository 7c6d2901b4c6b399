"""How long the loop looks again for an answer, with a clock and an epoll of the test's own."""

from __future__ import annotations

import os
import select
from collections import Counter
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from slirp.host import poller
from slirp.host.poller import READ, SPIN_SECONDS, TURN_SECONDS, Poller, Sockets

GLANCE = 2e-6  # what a look costs here


class Machine:
    """Answers come `delay` seconds after each wait has begun; who is away from the processor comes back `busy` seconds
    later."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.begun, self.delay, self.busy = 100.0, 100.0, 0.0, 0.0
        self.yields = 0
        self.poller = Poller()
        self.poller._epoll.close()
        self.poller._epoll = cast(select.epoll, self)
        self.poller._ready[7] = lambda events: None
        monkeypatch.setattr(poller.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(os, "sched_yield", self.sched_yield)

    def poll(self, timeout: float, limit: int) -> list[tuple[int, int]]:
        self.now += GLANCE
        at = self.begun + self.delay
        if self.now < at:
            if self.now + timeout < at:
                self.now += timeout
                return []
            self.now = at
        return [(7, READ)]

    def sched_yield(self) -> None:
        self.yields += 1
        self.now += self.busy

    def wait(self, delay: float, times: int = 1) -> int:
        """How often it looked again in the last of these waits."""
        for _ in range(times):
            self.yields, self.delay, self.begun = 0, delay, self.now
            self.poller.answer_expected = True
            self.poller.run_once(1.0)
        return self.yields


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.mark.parametrize("delay", [10e-6, 30e-6, 70e-6, 130e-6])
def test_an_answer_that_comes_soon_is_looked_for_whatever_the_machine_takes_for_it(
    machine: Machine, delay: float
) -> None:
    assert machine.wait(delay, 100) > 0
    machine.wait(delay)
    assert machine.now == pytest.approx(machine.begun + delay, abs=2 * GLANCE)
    assert machine.yields >= (delay - 2 * GLANCE) // GLANCE


def test_for_late_answers_no_processor_is_burnt_until_they_come_sooner(machine: Machine) -> None:
    assert machine.wait(2 * SPIN_SECONDS, 50) == 0
    assert machine.wait(SPIN_SECONDS / 4, 50) > 0


def test_no_answer_is_not_looked_for_longer_than_it_could_take(machine: Machine) -> None:
    machine.wait(20e-6, 100)
    assert machine.wait(0.5) * GLANCE <= SPIN_SECONDS


def test_on_a_busy_machine_it_sleeps(machine: Machine) -> None:
    machine.wait(50e-6, 20)
    machine.busy = 2e-3
    machine.wait(50e-6)
    assert machine.wait(50e-6) == 0


def test_nothing_is_looked_for_unasked(machine: Machine) -> None:
    machine.delay = 1e-5
    machine.poller.run_once(1.0)
    assert machine.yields == 0


@pytest.fixture
def ready() -> Iterator[Callable[[], int]]:
    """Makes a descriptor that is always ready."""
    made: list[int] = []

    def make() -> int:
        made.append(os.eventfd(1))
        return made[-1]

    yield make
    for fd in made:
        os.close(fd)


def test_a_guest_with_many_sockets_has_no_more_turns_than_one_with_one(
    monkeypatch: pytest.MonkeyPatch, ready: Callable[[], int]
) -> None:
    now, loop = 0.0, Poller()
    monkeypatch.setattr(poller.time, "perf_counter", lambda: now)
    flooder, neighbour, turns = Sockets(loop), Sockets(loop), Counter[int]()

    def turn(fd: int, seconds: float) -> None:
        nonlocal now
        turns[fd] += 1
        now += seconds

    many, one = [ready() for _ in range(100)], ready()
    for fd in many:
        flooder.add(fd, READ, lambda _, fd=fd: turn(fd, TURN_SECONDS / 2))
    neighbour.add(one, READ, lambda _: turn(one, TURN_SECONDS / 2))
    for _ in range(50):
        loop.run_once(0)
    assert turns[one] == 50
    assert now <= 50 * 3 * TURN_SECONDS  # the flooder has had two for each of its neighbour's
    assert {turns[fd] for fd in many} == {2}  # and its own sockets take turns as well
    for each in (flooder, neighbour):
        each.close()


def test_a_guest_alone_has_long_turns_and_what_has_gone_has_none(
    monkeypatch: pytest.MonkeyPatch, ready: Callable[[], int]
) -> None:
    now, loop = 0.0, Poller()
    monkeypatch.setattr(poller.time, "perf_counter", lambda: now)
    sockets, turns = Sockets(loop), Counter[int]()
    fds = [ready() for _ in range(20)]

    def turn(fd: int) -> None:
        nonlocal now
        turns[fd] += 1
        now += TURN_SECONDS / 10
        if fd == fds[0]:
            for other in fds[1:]:
                sockets.remove(other)

    for fd in fds[1:]:
        sockets.add(fd, READ, lambda _, fd=fd: turn(fd))
    loop.run_once(0)
    assert turns == dict.fromkeys(fds[1:], 1)
    turns.clear()
    sockets.add(fds[0], READ, lambda _: turn(fds[0]))
    for _ in range(3):
        loop.run_once(0)
    assert turns.pop(fds[0]) == 3
    assert set(turns.values()) <= {1}  # in the first round, before it
    sockets.close()


def test_device_sockets_and_listeners_of_a_guest_are_one_guest(ready: Callable[[], int]) -> None:
    loop, seen = Poller(), []
    sockets = Sockets(loop)
    listeners, neighbour = Sockets(loop, sockets), Sockets(loop)
    loop.add_guests(ready(), sockets, lambda _: seen.append(sockets.alone))
    for each in (sockets, listeners):
        each.add(ready(), READ, lambda _, each=each: seen.append(each.alone))
    loop.run_once(0)
    assert seen == [True] * 3
    neighbour.add(ready(), READ, lambda _: seen.append(neighbour.alone))
    loop.run_once(0)
    assert seen == [True] * 3 + [False] * 4
    for each in (sockets, listeners, neighbour):
        each.close()
