"""The time in which a command line is attached to a process in a container: four descriptors and one loop.

    standard input  -> stream        never blocks: a container that does not read must not keep us from writing
    stream          -> standard output, standard error
    signals         -> on_signal     sent on, or a resize
    wait connection -> the end       the answer to POST /containers/{id}/wait, asked for earlier

Called by run, start, attach, exec. Ends when the stream has ended and, where there is one, the answer has come."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable

from rootless.cli.detach_keys import DetachMatcher
from rootless.cli.output import Demultiplexer
from rootless.cli.signals import SignalPipe
from rootless.client import Hijacked
from rootless.client.connection import Connection

STDIN_FD = 0
READ_BYTES = 32 << 10
DETACH_SECONDS = 3.0  # for an engine to end the stream after the detach keys; then we leave by ourselves
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR


class Attachment:
    """One loop. `run` returns whether the user detached."""

    def __init__(
        self,
        stream: Hijacked,
        tty: bool,
        signals: SignalPipe,
        on_signal: Callable[[signal.Signals], None],
        detach: DetachMatcher | None,
        stdin: bool,
        wait: Connection | None = None,
    ) -> None:
        self._stream = stream
        self._output = Demultiplexer(multiplexed=not tty)
        self._signals = signals
        self._on_signal = on_signal
        self._detach = detach
        self._wait = wait
        self._pending = memoryview(b"")
        self._input_open = stdin
        self._stream_open = True
        self._answered = wait is None or wait.early

    def run(self) -> bool:
        """Raises BrokenPipeError where our output is not wanted, ConnectionLost, RootlessError."""
        while self._stream_open or not self._answered:
            if self._stream_open and self._stream.early:
                self._receive()
                continue
            events = dict(self._poller().poll(self._timeout()))
            if not events and self._detached:
                return True
            if self._signals.fileno() in events:
                for number in self._signals.arrived():
                    self._on_signal(number)
            stream_events = events.get(self._stream.fileno(), 0) if self._stream_open else 0
            if stream_events & _READABLE:
                self._receive()
            if self._stream_open and stream_events & select.POLLOUT:
                self._send()
            if self._input_open and not self._pending and STDIN_FD in events:
                self._read_input()
            if self._wait is not None and self._wait.fileno() in events:
                self._answered = True
            if self._detached and not self._stream_open:
                return True
        return False

    @property
    def _detached(self) -> bool:
        return self._detach is not None and self._detach.matched

    def _timeout(self) -> float | None:
        return DETACH_SECONDS * 1000 if self._detached else None

    def _poller(self) -> select.poll:
        poller = select.poll()
        poller.register(self._signals.fileno(), select.POLLIN)
        if self._stream_open:
            poller.register(self._stream.fileno(), select.POLLIN | (select.POLLOUT if self._pending else 0))
            if self._input_open and not self._pending:
                poller.register(STDIN_FD, select.POLLIN)
        if self._wait is not None and not self._answered:
            poller.register(self._wait.fileno(), select.POLLIN)
        return poller

    def _receive(self) -> None:
        data = self._stream.receive()
        if data:
            self._output.write(data)
            return
        self._output.end()
        self._stream_open = False
        self._stream.close()

    def _read_input(self) -> None:
        try:
            data = os.read(STDIN_FD, READ_BYTES)
        except OSError:  # EIO: we are in the background of a terminal that nobody has any more
            data = b""
        if not data:
            self._input_open = False
            self._stream.close_write()
            return
        if self._detach is not None:
            self._detach.feed(data)
        self._pending = memoryview(data)
        self._send()

    def _send(self) -> None:
        try:
            self._pending = self._pending[self._stream.send_some(self._pending) :]
        except (BrokenPipeError, ConnectionResetError):
            self._pending, self._input_open = memoryview(b""), False  # nobody reads it; output may still come


def check_terminal(stdin: bool, tty: bool) -> str:
    """docker's complaint where -t is asked for and standard input is no terminal; else empty."""
    if stdin and tty and not os.isatty(STDIN_FD):
        return "the input device is not a TTY"
    return ""


def flush_output() -> None:
    """What Python still holds goes out before we write to the descriptors ourselves."""
    sys.stdout.flush()
    sys.stderr.flush()
