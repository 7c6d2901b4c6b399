"""Sizes, times and texts as docker's tables show them. Pure; the time is an argument."""

from __future__ import annotations

import time

from rootless.model.clock import human_duration

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")
SHORT_ID = 12


def human_size(size: float, digits: int = 3) -> str:
    """(170402379) -> "170MB": powers of 1000."""
    return _scaled(size, 1000.0, _DECIMAL, digits)


def binary_size(size: float) -> str:
    """(25276448768) -> "23.54GiB": powers of 1024."""
    return _scaled(size, 1024.0, _BINARY, 4)


def _scaled(size: float, base: float, units: tuple[str, ...], digits: int) -> str:
    at = 0
    while size >= base and at < len(units) - 1:
        size /= base
        at += 1
    return f"{size:.{digits}g}{units[at]}"


def ago(then_seconds: float, now_seconds: float) -> str:
    """ "3 minutes ago"."""
    return human_duration(int((now_seconds - then_seconds) * 10**9)) + " ago"


def local_time(seconds: float) -> str:
    """ "2026-11-24 02:10:13 +0000 UTC", in the zone of the process, as Go prints times."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(seconds))


def short_id(text: str) -> str:
    """("sha256:c65dd403b18ab6…") -> "c65dd403b18a"."""
    return text.partition(":")[2][:SHORT_ID] if ":" in text else text[:SHORT_ID]


def ellipsis(text: str, limit: int) -> str:
    """At most `limit` characters, the last one an ellipsis where some are missing."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
