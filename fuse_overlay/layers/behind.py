"""A thread that works on one piece of data while its owner makes the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

_SMALL_BYTES = 64 << 10  # handing over a smaller piece costs as much as the work


class Behind:
    """start() work, or give() a piece of data to be worked on, one at a time; wait() for it; end() at last.

    `idle_cpus`: whether there are any; else a piece is worked on at once, as changing threads costs more."""

    def __init__(self, *, idle_cpus: bool = True) -> None:
        self._idle_cpus = idle_cpus
        self._pool: ThreadPoolExecutor | None = None
        self._work: Future[object] | None = None

    def start(self, work: Callable[[], object]) -> None:
        """Raises what the work before did."""
        self.wait()
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor  # 4 ms that a start does not pay

            self._pool = ThreadPoolExecutor(1, "behind")
        self._work = self._pool.submit(work)

    def give(self, work: Callable[[bytes | memoryview], object], data: bytes | memoryview) -> None:
        """The work of a small piece, and of one that its owner may change, is done at once. Raises what it does then,
        and what the work before did."""
        if self._idle_cpus and isinstance(data, bytes) and len(data) >= _SMALL_BYTES:
            self.start(lambda: work(data))
        else:
            self.wait()
            work(data)

    def wait(self) -> None:
        """Raises what the work did."""
        if self._work is not None:
            work, self._work = self._work, None
            work.result()

    def end(self) -> None:
        """What is being done is finished, whatever comes of it. Idempotent."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = self._work = None
