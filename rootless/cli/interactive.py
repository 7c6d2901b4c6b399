"""A terminal, signals and an attachment put together: what run, start -a, attach and exec have in common."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rootless.cli import attachment, terminal
from rootless.cli.attachment import STDIN_FD, Attachment
from rootless.cli.detach_keys import DEFAULT, DetachMatcher, key_bytes
from rootless.cli.output import STDOUT_FD
from rootless.cli.program import die_by
from rootless.cli.signals import DEADLY, PASSED_ON, SignalPipe
from rootless.client import Client, Hijacked
from rootless.client.client import segment
from rootless.client.connection import Connection
from rootless.model.errors import RootlessError


class Killed(Exception):
    """A deadly signal came while the terminal was ours: put it in order, then die."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


@dataclass
class Session:
    """What is attached to what. `resize` takes rows and columns; `forward` a signal, None: signals are not sent on."""

    tty: bool
    stdin: bool
    detach_keys: str
    resize: Callable[[int, int], None]
    forward: Callable[[signal.Signals], None] | None

    @contextlib.contextmanager
    def prepared(self) -> Iterator[Prepared]:
        """Signals caught, terminal raw; both as before at the end. Dies by a deadly signal once all is in order.

        Raises InvalidParameter for bad detach keys."""
        keys = key_bytes(self.detach_keys or DEFAULT)
        caught: set[signal.Signals] = set()
        if self.tty:
            caught |= DEADLY | {signal.SIGWINCH, signal.SIGCONT}
        elif self.forward is not None:
            caught |= PASSED_ON
        attachment.flush_output()
        try:
            with contextlib.ExitStack() as stack:
                signals = stack.enter_context(SignalPipe(caught))
                raw = None
                if self.tty and self.stdin:
                    raw = stack.enter_context(terminal.RawTerminal(STDIN_FD))
                yield Prepared(self, signals, raw, DetachMatcher(keys) if self.tty and self.stdin else None)
        except Killed as killed:
            die_by(killed.number)


@dataclass
class Prepared:
    """A session with its signals and terminal."""

    session: Session
    signals: SignalPipe
    raw: terminal.RawTerminal | None
    detach: DetachMatcher | None

    def run(self, stream: Hijacked, wait: Connection | None) -> bool:
        """Until the end; whether the user detached. Raises ConnectionLost, RootlessError."""
        loop = Attachment(
            stream, self.session.tty, self.signals, self._on_signal, self.detach, self.session.stdin, wait
        )
        return loop.run()

    def fit(self) -> None:
        """Give the container's terminal the size of ours."""
        rows, columns = terminal.size(STDOUT_FD)
        if self.session.tty and rows and columns:
            with contextlib.suppress(RootlessError):  # it may have ended by now
                self.session.resize(rows, columns)

    def redraw(self) -> None:
        """Make the program in there draw itself again: a size one row off, then the right one."""
        rows, columns = terminal.size(STDOUT_FD)
        if self.session.tty and rows and columns:
            with contextlib.suppress(RootlessError):
                self.session.resize(rows + 1, columns)
            self.fit()

    def _on_signal(self, number: signal.Signals) -> None:
        if self.session.tty:
            if number in DEADLY:
                raise Killed(number)
            if number == signal.SIGCONT and self.raw is not None:
                self.raw.enter_raw_mode()
            self.fit()
        elif self.session.forward is not None:
            with contextlib.suppress(RootlessError):
                self.session.forward(number)


def container_session(
    client: Client, container: str, tty: bool, stdin: bool, detach_keys: str, proxy_signals: bool
) -> Session:
    """A session with a container's first process."""
    path = f"/containers/{segment(container)}"
    return Session(
        tty,
        stdin,
        detach_keys,
        resize=lambda rows, columns: client.call("POST", f"{path}/resize", {"h": rows, "w": columns}),
        forward=(lambda number: client.call("POST", f"{path}/kill", {"signal": int(number)}))
        if proxy_signals
        else None,
    )


def status(value: object) -> int:
    """{"StatusCode": 3, "Error": {"Message": …}} -> 3. Raises RootlessError."""
    if not isinstance(value, dict):
        raise RootlessError("lost the connection to the engine while waiting for the container")
    error = value.get("Error") or {}
    if error.get("Message"):
        raise RootlessError(str(error["Message"]))
    return int(value.get("StatusCode") or 0)
