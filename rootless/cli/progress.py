"""docker's progress messages on a terminal: a line for each id, which moves in place, and lines for the rest."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from rootless.cli.output import write_all
from rootless.model.bars import drawn, numbers

BAR_COLUMNS = 110  # as docker: on a narrower terminal there are only numbers


def show_moving(messages: Iterable[dict[str, Any]], fd: int) -> None:
    """Raises what `messages` raises."""
    screen = Screen(*_size(fd))
    for message in messages:
        if text := screen.show(message):
            write_all(fd, text.encode(errors="replace"))


def _size(fd: int) -> tuple[int, int]:
    try:
        size = os.get_terminal_size(fd)
    except OSError:
        return 80, 24
    return size.columns or 80, size.lines or 24


class Screen:
    """Messages -> what to write so that each id keeps its line. Lines that have left the window are let go. Pure."""

    def __init__(self, columns: int, lines: int) -> None:
        self._columns = columns
        self._lines = lines
        self._below: dict[str, int] = {}  # id -> number of its line, from the first
        self._count = 0

    def show(self, message: dict[str, Any]) -> str:
        """ "" where there is nothing to see."""
        if "stream" in message:
            text = str(message["stream"])
            return self._plain(text if text.endswith("\n") else text + "\n")
        status, identity = str(message.get("status") or ""), str(message.get("id") or "")
        if not status:
            return ""
        if not identity or "progressDetail" not in message:
            return self._plain(f"{identity}: {status}\n" if identity else f"{status}\n")
        line = self._fitted(f"{identity}: {status}{self._bar(message.get('progressDetail') or {})}")
        if identity not in self._below:
            self._below[identity] = self._count
            self._count += 1
            return f"{line}\n"
        up = self._count - self._below[identity]
        if up >= self._lines:
            return ""
        return f"\x1b[{up}A\x1b[2K\r{line}\r\x1b[{up}B"

    def _plain(self, text: str) -> str:
        """Other lines move those of the ids up."""
        self._count += text.count("\n")
        return text

    def _fitted(self, line: str) -> str:
        """One that wraps would take the place of two."""
        return line if len(line) < self._columns else line[: self._columns - 1]

    def _bar(self, detail: dict[str, Any]) -> str:
        current, total = detail.get("current"), detail.get("total")
        if not isinstance(current, int) or not isinstance(total, int):
            return ""
        return f" {drawn(current, total) if self._columns > BAR_COLUMNS else numbers(current, total)}"
