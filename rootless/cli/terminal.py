"""The caller's terminal: raw mode and its end, whatever happens, and its size.

Restored by `with`, so also after an exception; signals that kill are turned into an exception by `signals`. Only
SIGKILL leaves a raw terminal behind, as with every program."""

from __future__ import annotations

import os
import termios
from types import TracebackType
from typing import Any

# indices into what tcgetattr gives (termios(3))
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6


class RawTerminal:
    """A terminal in raw mode for as long as the context lasts."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved: list[Any] | None = None

    def __enter__(self) -> RawTerminal:
        self._saved = termios.tcgetattr(self._fd)
        self.enter_raw_mode()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def enter_raw_mode(self) -> None:
        """cfmakeraw(3). Again after a stop: the shell has had its own modes in between."""
        if self._saved is None:
            return
        modes = [*self._saved[:_CC], list(self._saved[_CC])]
        modes[_IFLAG] &= ~(
            termios.IGNBRK
            | termios.BRKINT
            | termios.PARMRK
            | termios.ISTRIP
            | termios.INLCR
            | termios.IGNCR
            | termios.ICRNL
            | termios.IXON
        )
        modes[_OFLAG] &= ~termios.OPOST
        modes[_CFLAG] = modes[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        modes[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        modes[_CC][termios.VMIN], modes[_CC][termios.VTIME] = 1, 0
        self._set(modes)

    def restore(self) -> None:
        """The modes as they were found."""
        if self._saved is not None:
            self._set(self._saved)

    def _set(self, modes: list[Any]) -> None:
        try:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, modes)
        except termios.error:
            return  # the terminal has gone away


def size(fd: int) -> tuple[int, int]:
    """(rows, columns); zeros where it is no terminal or has none."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return 0, 0
    return rows, columns
