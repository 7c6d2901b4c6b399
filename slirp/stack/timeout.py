"""How long a flow waits for an acknowledgment before it sends again (RFC 6298). Pure. Used by `tcp_flow`."""

from __future__ import annotations

MIN_RTO, MAX_RTO, FIRST_RTO = 0.1, 60.0, 1.0  # seconds; RFC 6298, but for the minimum: the guest is near


class Timeout:
    """`seconds` is the time-out in force."""

    __slots__ = ("_srtt", "_variation", "seconds")

    def __init__(self) -> None:
        self._srtt = self._variation = 0.0
        self.seconds = FIRST_RTO

    def measured(self, seconds: float) -> None:
        """A round trip; not of what was sent twice (Karn), nor of what had to wait for that."""
        if self._srtt == 0.0:
            self._srtt, self._variation = seconds, seconds / 2
        else:
            self._variation += (abs(self._srtt - seconds) - self._variation) / 4
            self._srtt += (seconds - self._srtt) / 8
        self.restore()

    def back_off(self) -> None:
        """It has passed."""
        self.seconds = min(MAX_RTO, self.seconds * 2)

    def restore(self) -> None:
        """The path works again: what it was before it was doubled."""
        known = self._srtt > 0.0
        self.seconds = min(MAX_RTO, max(MIN_RTO, self._srtt + 4 * self._variation)) if known else FIRST_RTO
