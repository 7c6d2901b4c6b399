"""Paths of the Engine API -> handlers, and the version in front of them. Pure.

`/v1.47/containers/json` and `/containers/json` are the same; versions outside of MIN_VERSION … VERSION are refused with
docker's words, as its clients read them to negotiate."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

VERSION = "1.47"
MIN_VERSION = "1.24"
_VERSIONED = re.compile(r"/v(\d+\.\d+)(/.*)")
T = TypeVar("T")


class UnsupportedVersion(Exception):
    """Docker's message about a version too new or too old."""


@dataclass(frozen=True)
class Match(Generic[T]):
    """A handler and what stood for the names in its pattern."""

    handler: T
    parameters: dict[str, str]


class Router(Generic[T]):
    """`table` is rows of (method, pattern, handler); {name} in a pattern takes a path component, {name*} takes several
    (names of images have slashes)."""

    def __init__(self, table: Iterable[tuple[str, str, T]]) -> None:
        self._rows = [(method, _compile(pattern), handler) for method, pattern, handler in table]

    def find(self, method: str, path: str) -> Match[T] | None:
        """The first row that fits; HEAD is served by GET's rows where it has none."""
        for wanted in (method, "GET") if method == "HEAD" else (method,):
            for row_method, pattern, handler in self._rows:
                if row_method == wanted and (match := pattern.fullmatch(path)):
                    return Match(handler, match.groupdict())
        return None

    def methods(self, path: str) -> list[str]:
        """Methods a path has, for a 405."""
        return sorted({method for method, pattern, _ in self._rows if pattern.fullmatch(path)})


def split_version(path: str) -> tuple[str, str]:
    """(version or VERSION, the path without it). Raises UnsupportedVersion."""
    match = _VERSIONED.fullmatch(path)
    if not match:
        return VERSION, path
    version, rest = match.groups()
    if _key(version) > _key(VERSION):
        raise UnsupportedVersion(f"client version {version} is too new. Maximum supported API version is {VERSION}")
    if _key(version) < _key(MIN_VERSION):
        raise UnsupportedVersion(
            f"client version {version} is too old. Minimum supported API version is {MIN_VERSION}, "
            "please upgrade your client to a newer version"
        )
    return version, rest


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _compile(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\{\w+\*?\})", pattern)
    return re.compile(
        "".join(
            f"(?P<{part[1:-1].rstrip('*')}>{'.+' if part.endswith('*}') else '[^/]+'})"
            if part.startswith("{")
            else re.escape(part)
            for part in parts
        )
    )
