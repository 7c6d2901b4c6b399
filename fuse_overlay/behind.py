"""Calls made in a thread of their own while the caller goes on: what a second processor can do meanwhile."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Behind:
    """One call at a time; it may not raise. `close()` at the end, which waits for nothing."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[bytes], object], bytes] | None] = queue.SimpleQueue()
        self._busy = threading.Lock()
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[[bytes], object], argument: bytes) -> None:
        """Wait for the last one, and begin this."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="behind", daemon=True)
            self._thread.start()
        self._busy.acquire()
        self._calls.put((function, argument))

    def wait(self) -> None:
        """Until the last call is done."""
        with self._busy:
            pass

    def close(self) -> None:
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            function, argument = call
            try:
                function(argument)
            finally:
                del call, argument
                self._busy.release()
