"""Kinds of values that flags take, each with docker's complaint. Pure.

A kind turns a word into a value and raises ValueError with the reason; `Kind` makes a click type of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

from rootless.cli.flags import FlagError
from rootless.model.moments import duration

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kKmMgGtTpP])?([iI]?[bB])?")

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # generic since click 8.2 only


class Kind(_ParamType):
    """A click type of a function; `name` is what help shows for the value."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Raises FlagError in docker's words."""
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            shown = ", ".join(sorted(param.opts, key=len)) if param else self.name
            raise FlagError(f'invalid argument "{value}" for "{shown}" flag: {error}') from None


def size(text: str) -> int:
    """("512m") -> bytes; units are powers of 1024, -1 stands for no limit. Raises ValueError."""
    if text == "-1":
        return -1
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"invalid size: '{text}'")
    number, unit, _ = match.groups()
    return int(Fraction(number) * 1024 ** (" kmgtp".index(unit.lower()) if unit else 0))


def integer(text: str) -> int:
    """A whole number, decimal or 0x…. Raises ValueError."""
    try:
        return int(text, 0) if not re.fullmatch(r"[+-]?0\d+", text) else int(text, 8)
    except ValueError:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


def cpus(text: str) -> int:
    """("1.5") -> 1500000000, the API's NanoCpus. Raises ValueError."""
    try:
        nano = Fraction(text) * 10**9
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"failed to parse {text} as a rational number") from None
    if nano.denominator != 1:
        raise ValueError("value is too precise")
    return int(nano)


def filter_pair(text: str) -> tuple[str, str]:
    """("name=web") -> ("name", "web"). Raises ValueError."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError("bad format of filter (expected name=value)")
    return name.strip().lower(), value.strip()


def environment_variable(text: str) -> str:
    """("A=b"), ("A"). Raises ValueError where the name is empty."""
    if not text.partition("=")[0]:
        raise ValueError(f"invalid environment variable: {text}")
    return text


STRING = click.STRING
INTEGER = Kind("int", integer)
SIZE = Kind("bytes", size)
DURATION = Kind("duration", duration)
CPUS = Kind("decimal", cpus)
FILTER = Kind("filter", filter_pair)
LIST = Kind("list", str)
ENVIRONMENT = Kind("list", environment_variable)


def filters(pairs: tuple[tuple[str, str], ...]) -> dict[str, list[str]]:
    """(("name", "a"), ("name", "b")) -> {"name": ["a", "b"]}, as the API has filters."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found
