"""Moments and lengths of time as users write them (`--since 10m`): RFC 3339, Unix seconds, or a time ago. Pure."""

from __future__ import annotations

import re
from datetime import datetime
from fractions import Fraction

from rootless.model.errors import InvalidParameter

_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_NANOSECONDS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9}
_NANOSECONDS["h"] = 3600 * 10**9
_DATE = re.compile(r"(\d{4}-\d\d-\d\d)(?:T(\d\d)(?::(\d\d)(?::(\d\d)(\.\d{1,9})?)?)?)?(Z|[+-]\d\d:\d\d)?")


def duration(text: str) -> int:
    """("1m30s") -> nanoseconds, as Go's time.ParseDuration reads it. Raises ValueError."""
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    total, at = Fraction(0), 0
    for match in _DURATION_PART.finditer(rest):
        if match.start() != at:
            break
        total += Fraction(match[1].rstrip(".")) * _NANOSECONDS[match[2]]
        at = match.end()
    if not rest or at != len(rest):
        missing = re.fullmatch(r"\d+\.?\d*", rest)
        raise ValueError(f'time: {"missing unit in" if missing else "invalid"} duration "{text}"')
    return int(sign * total)


def query_moment(text: str | None, now_seconds: float) -> str | None:
    """("42m") -> "1795485478.123456789": what the API's since and until take. None stays None.

    A date without a zone is in the zone of the process. Raises InvalidParameter."""
    if not text:
        return None
    if re.fullmatch(r"\d+(\.\d{1,9})?", text):
        return text
    try:
        return _seconds(int(now_seconds * 10**9) - duration(text))
    except ValueError:
        pass
    match = _DATE.fullmatch(text)
    if not match:
        raise InvalidParameter(f'invalid time value: "{text}"')
    date, hours, minutes, seconds, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(
            f"{date}T{hours or '00'}:{minutes or '00'}:{seconds or '00'}" + ("+00:00" if zone == "Z" else zone or "")
        )
    except ValueError as error:
        raise InvalidParameter(f'invalid time value: "{text}": {error}') from None
    return _seconds(int(moment.timestamp()) * 10**9 + int((fraction or ".0")[1:].ljust(9, "0")))


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"
