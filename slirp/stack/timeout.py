"""How long a flow waits for an acknowledgment: before it sends again (RFC 6298), and before it asks whether its last
segment has arrived (RFC 8985 7, tail loss probes). Pure. Used by `outgoing`.

Not as the RFCs have it, because the guest is near and no network is between that could be congested: the minimum and
the maximum are smaller, and the first few time-outs in a row are not doubled (as Linux' tcp_thin_linear_timeouts)."""

from __future__ import annotations

MIN_RTO, MAX_RTO, FIRST_RTO = 0.05, 4.0, 0.25  # seconds
MAX_PROBE = 60.0  # seconds between two questions whether a window is still shut
LINEAR_TIMEOUTS = 6  # TCP_THIN_LINEAR_RETRIES of Linux
MIN_PROBE = 0.005
DELAYED_ACK = 0.05  # seconds a guest may wait before it acknowledges one segment; Linux 40 ms


class Timeout:
    """`seconds` is the time-out in force, `probe_seconds` when to ask for the tail."""

    __slots__ = ("_in_a_row", "_srtt", "_variation", "probe_seconds", "seconds")

    def __init__(self) -> None:
        self._srtt = self._variation = 0.0
        self._in_a_row = 0
        self.seconds = self.probe_seconds = FIRST_RTO

    def measured(self, seconds: float) -> None:
        """A round trip; not of what was sent twice (Karn), nor of what had to wait for that."""
        if self._srtt == 0.0:
            self._srtt, self._variation = seconds, seconds / 2
        else:
            self._variation += (abs(self._srtt - seconds) - self._variation) / 4
            self._srtt += (seconds - self._srtt) / 8
        probe, seconds = 2 * self._srtt, self._srtt + 4 * self._variation
        self.probe_seconds = MIN_PROBE if probe < MIN_PROBE else probe
        self.seconds = MIN_RTO if seconds < MIN_RTO else min(MAX_RTO, seconds)
        self._in_a_row = 0

    def back_off(self, most: float = MAX_RTO) -> None:
        """It has passed."""
        self._in_a_row += 1
        if self._in_a_row >= LINEAR_TIMEOUTS:
            self.seconds = min(most, self.seconds * 2)

    def restore(self) -> None:
        """The path works again: what it was before it was doubled."""
        self._in_a_row = 0
        known = self._srtt > 0.0
        self.seconds = min(MAX_RTO, max(MIN_RTO, self._srtt + 4 * self._variation)) if known else FIRST_RTO
