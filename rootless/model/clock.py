"""Times as docker writes them. Pure: the time is an argument."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

ZERO = "0001-01-01T00:00:00Z"
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


def rfc3339(nanoseconds: int) -> str:
    """Nanoseconds since 1970 as RFC 3339 with nine digits: what time.time_ns() gives, in docker's form."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def nanoseconds(text: str) -> int:
    """The inverse of `rfc3339`, for any zone. Raises ValueError."""
    match = _RFC3339.fullmatch(text)
    if not match:
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    whole, fraction, zone = match.groups()
    moment = datetime.fromisoformat(whole + ("+00:00" if zone == "Z" else zone))
    seconds = int((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(seconds=1))
    return seconds * 10**9 + int((fraction or "0").ljust(9, "0"))


def query_time(text: str) -> int | None:
    """`since` and `until` of the API: Unix seconds with a fraction, or RFC 3339; nanoseconds, None where not given.

    Raises ValueError."""
    if text in ("", "0"):
        return None
    if re.fullmatch(r"\d+(\.\d+)?", text):
        whole, _, fraction = text.partition(".")
        return int(whole) * 10**9 + int((fraction or "0")[:9].ljust(9, "0"))
    return nanoseconds(text)


def human_duration(nanoseconds: int) -> str:
    """A length of time as docker says it: "Less than a second", "3 minutes", "About an hour", "2 weeks"."""
    seconds = max(0, nanoseconds) // 10**9
    minutes, hours = seconds // 60, round(seconds / 3600)
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if seconds == 1 else f"{seconds} seconds"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours <= 1:
        return "About an hour"
    for limit, hours_each, unit in ((48, 1, "hours"), (24 * 14, 24, "days"), (24 * 60, 168, "weeks")):
        if hours < limit:
            return f"{hours // hours_each} {unit}"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"
