"""Flags as docker's users write them (POSIX with GNU's long names, in Go's manner). Pure.

`--name value`, `--name=value`, `-n value`, `-nvalue`, `-n=value`, `-it`; a boolean takes a value only after `=`
(`--sig-proxy=false`). click's own parser knows no `--flag=false` and words its complaints in its own way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}


class FlagError(Exception):
    """A complaint in docker's words."""


@dataclass(frozen=True)
class Flag:
    """One flag: where its values go, how it is written ("-e", "--env"), whether it is a switch or may be repeated."""

    destination: str
    spellings: tuple[str, ...]
    boolean: bool = False
    repeated: bool = False

    @property
    def shown(self) -> str:
        """("-e", "--env") -> "-e, --env", as complaints name it."""
        return ", ".join(sorted(self.spellings, key=len))


_Setter = Callable[[Flag, str | bool], None]


def parse(
    arguments: Sequence[str], flags: Sequence[Flag], interspersed: bool
) -> tuple[dict[str, object], list[str], list[str]]:
    """(values by destination, words that are no flags, destinations in order).

    Not interspersed: the first word that is no flag ends them. Raises FlagError."""
    by_spelling = {spelling: flag for flag in flags for spelling in flag.spellings}
    values: dict[str, object] = {}
    order: list[str] = []
    words: list[str] = []
    waiting = list(reversed(arguments))

    def set_value(flag: Flag, value: str | bool) -> None:
        order.append(flag.destination)
        if flag.repeated:
            values.setdefault(flag.destination, [])
            values[flag.destination].append(value)  # type: ignore[attr-defined]
        else:
            values[flag.destination] = value

    while waiting:
        word = waiting.pop()
        if word == "--":
            words += reversed(waiting)
            break
        if len(word) < 2 or not word.startswith("-"):
            words.append(word)
            if not interspersed:
                words += reversed(waiting)
                break
        elif word.startswith("--"):
            _long(word, by_spelling, waiting, set_value)
        else:
            _short(word, by_spelling, waiting, set_value)
    return values, words, order


def boolean(text: str) -> bool:
    """A switch's value, as Go's strconv.ParseBool takes it. Raises ValueError."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def _long(word: str, by_spelling: Mapping[str, Flag], waiting: list[str], set_value: _Setter) -> None:
    name, equals, value = word.partition("=")
    flag = by_spelling.get(name)
    if flag is None or name == "--":
        raise FlagError(f"bad flag syntax: {word}" if name == "--" else f"unknown flag: {name}")
    if equals:
        set_value(flag, _value(flag, value))
    elif flag.boolean:
        set_value(flag, True)
    elif waiting:
        set_value(flag, waiting.pop())
    else:
        raise FlagError(f"flag needs an argument: {name}")


def _short(word: str, by_spelling: Mapping[str, Flag], waiting: list[str], set_value: _Setter) -> None:
    letters = word[1:]
    while letters:
        letter, rest = letters[0], letters[1:]
        flag = by_spelling.get(f"-{letter}")
        if flag is None:
            raise FlagError(f"unknown shorthand flag: '{letter}' in -{letters}")
        if rest.startswith("=") and len(rest) > 1:
            set_value(flag, _value(flag, rest[1:]))
            return
        if flag.boolean:
            set_value(flag, True)
            letters = rest
            continue
        if not rest and not waiting:
            raise FlagError(f"flag needs an argument: '{letter}' in -{letters}")
        set_value(flag, rest or waiting.pop())
        return


def _value(flag: Flag, text: str) -> str | bool:
    if not flag.boolean:
        return text
    try:
        return boolean(text)
    except ValueError as error:
        raise FlagError(f'invalid argument "{text}" for "{flag.shown}" flag: {error}') from None
