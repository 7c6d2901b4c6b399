"""A process that answers while the server is stuck in a store.

FUSE_NOTIFY_STORE waits, uninterruptibly, for a page whose READ or READLINK has not been answered: the server could
wait for itself. It says when it stores (a counter in shared memory, odd meanwhile); the standby looks every
TICK_SECONDS, and where the counter has stood still on an odd number it answers requests until it moves. It never
stores, so it is never stuck. A process, not a thread: a thread would be gone when the server is killed, and the server
could not die.

It sleeps in a pipe when nothing was stored for REST_SECONDS, and leaves when the server has gone (end of file)."""

from __future__ import annotations

import mmap
import os
import select
import signal
import time
from collections.abc import Mapping

from fuse_overlay.device import Device, Handler, request_buffer

TICK_SECONDS = 0.01
REST_SECONDS = 1.0


class Standby:
    """`with standby:` around stores. Forks its process at the first, and another where that has died."""

    def __init__(self, device: Device, handlers: Mapping[int, Handler]) -> None:
        self._device = device
        self._handlers = handlers
        self._counter = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        self._pipe = -1
        self._pid = 0
        self._last = 0.0

    def __enter__(self) -> None:
        now = time.monotonic()
        if now - self._last > REST_SECONDS / 2:  # it may be asleep, or about to be
            self._wake()
        self._last = now
        self._counter[0] += 1

    def __exit__(self, *_: object) -> None:
        self._counter[0] += 1

    def _wake(self) -> None:
        if self._pid and os.waitpid(self._pid, os.WNOHANG)[0]:
            os.close(self._pipe)
            self._pid = 0
            self._device.resend()  # it may have held a request
        if not self._pid:
            self._start()
        try:
            os.write(self._pipe, b"!")
        except BlockingIOError:
            pass  # it has been told often enough

    def _start(self) -> None:
        reading, self._pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._pipe)
                os.sched_setaffinity(0, range(os.cpu_count() or 1))  # the server may just be kept on one, see `awake`
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                _Watch(self._device, self._handlers, self._counter, reading).run()
            finally:
                os._exit(0)
        os.close(reading)


class _Watch:
    """The standby's process."""

    def __init__(self, device: Device, handlers: Mapping[int, Handler], counter: memoryview, pipe: int) -> None:
        self._device, self._handlers, self._counter, self._pipe = device, handlers, counter, pipe
        self._buffer = request_buffer()
        self._alive = True

    def run(self) -> None:
        woken = select.poll()
        woken.register(self._pipe, select.POLLIN)
        while self._alive:
            woken.poll()
            still, seen = 0.0, self._counter[0]
            while self._alive and still < REST_SECONDS:
                self._drain()
                time.sleep(TICK_SECONDS)
                now = self._counter[0]
                if now != seen:
                    still, seen = 0.0, now
                elif now & 1:
                    self._answer_while(now)
                else:
                    still += TICK_SECONDS

    def _drain(self) -> None:
        try:
            self._alive = bool(os.read(self._pipe, 4096))
        except BlockingIOError:
            pass

    def _answer_while(self, stuck: int) -> None:
        ready = select.poll()
        ready.register(self._device.fd, select.POLLIN)
        while self._alive and self._counter[0] == stuck:
            if ready.poll(1):
                received = self._device.receive(self._buffer)
                self._device.answer(self._handlers, self._buffer, received)
                self._alive = bool(received)
            else:
                self._drain()
