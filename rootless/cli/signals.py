"""Signals as bytes on a descriptor, so that they can be waited for together with everything else.

Called by `attachment`. Signals that were ignored when we started (nohup, background jobs) stay ignored."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection
from types import FrameType, TracebackType
from typing import Any

# not passed on to a container: docker's client has use for these itself, or they say something about us only
KEPT = {
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGCHLD,
    signal.SIGPIPE,
    signal.SIGURG,
    signal.SIGWINCH,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGABRT,
    signal.SIGCONT,
    signal.SIGTTIN,
    signal.SIGTTOU,
}
PASSED_ON = frozenset(signal.Signals) - KEPT
DEADLY = frozenset({signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT})


class SignalPipe:
    """Catches some signals for as long as the context lasts; `fileno` is readable when one has come."""

    def __init__(self, caught: Collection[signal.Signals]) -> None:
        self._caught = caught
        self._before: dict[signal.Signals, Any] = {}
        self._read_fd, self._write_fd, self._wakeup_before = -1, -1, -1

    def __enter__(self) -> SignalPipe:
        self._read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup_before = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in self._caught:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, _nothing)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._read_fd)
        os.close(self._write_fd)

    def fileno(self) -> int:
        return self._read_fd

    def arrived(self) -> list[signal.Signals]:
        """The signals since the last call, in order."""
        try:
            return [signal.Signals(number) for number in os.read(self._read_fd, 4096)]
        except BlockingIOError:
            return []


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler that is no more than a reason for the wake-up descriptor to be written to."""
