"""When a server that died is started again: at once, then later and later, and at last not at all.

Pure; time is an argument. Used by `images` and `networks`, whose servers keep their descriptors while they are away: a
caller waits for an answer meanwhile, so giving up too early loses what a little patience would have kept."""

from __future__ import annotations

from dataclasses import dataclass

AT_ONCE = 3  # deaths in a row that cost the callers nothing
FIRST_DELAY_SECONDS = 0.05
LONGEST_DELAY_SECONDS = 2.0
HEALTHY_SECONDS = 10.0  # a server that lived this long starts a new row
GIVEN_UP = 20  # deaths in a row, about half a minute: what it serves must be what kills it


@dataclass
class Revival:
    """One server's deaths in a row. `due_at`: when it is to be started again; None: it runs, or is given up."""

    deaths: int = 0
    started_at: float = 0.0
    due_at: float | None = None

    @property
    def given_up(self) -> bool:
        return self.deaths >= GIVEN_UP

    def started(self, now: float) -> None:
        self.started_at, self.due_at = now, None

    def died(self, now: float) -> None:
        """Sets `due_at`, or gives up."""
        self.deaths = 1 if now - self.started_at > HEALTHY_SECONDS else self.deaths + 1
        self.due_at = None if self.given_up else now + self._delay()

    def _delay(self) -> float:
        late = self.deaths - AT_ONCE
        return 0.0 if late <= 0 else min(FIRST_DELAY_SECONDS * 2.0 ** (late - 1), LONGEST_DELAY_SECONDS)
