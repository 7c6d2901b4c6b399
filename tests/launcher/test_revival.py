"""When a dead server is started again. Time is a number here."""

from __future__ import annotations

from rootless.launcher.revival import AT_ONCE, GIVEN_UP, HEALTHY_SECONDS, LONGEST_DELAY_SECONDS, Revival


def test_the_first_deaths_cost_nothing_and_the_next_ones_wait_longer_and_longer() -> None:
    revival = Revival()
    now, delays = 100.0, []
    while not revival.given_up:
        revival.started(now)
        assert revival.due_at is None
        now += 0.01
        revival.died(now)
        if revival.due_at is not None:
            delays.append(revival.due_at - now)
            now = revival.due_at
    assert len(delays) == GIVEN_UP - 1
    assert delays[:AT_ONCE] == [0.0] * AT_ONCE
    assert delays == sorted(delays)
    assert abs(delays[-1] - LONGEST_DELAY_SECONDS) < 1e-6
    assert revival.due_at is None


def test_a_server_that_lived_starts_a_new_row() -> None:
    revival = Revival()
    for death in range(GIVEN_UP - 1):
        revival.started(float(death))
        revival.died(float(death))
    revival.started(50.0)
    revival.died(50.0 + HEALTHY_SECONDS + 1)
    assert (revival.deaths, revival.due_at) == (1, 51.0 + HEALTHY_SECONDS)
