"""The standard streams of a container or exec: pumped to the log and to whoever is attached.

Owns the engine's descriptors of one process. A reader that falls behind holds the pump, and so in the end the
container, as docker's does: output is never dropped. A pump that has no reader but the log never waits."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Mapping

import trio

from rootless.engine.logs import LogWriter

READ_BYTES = 128 << 10
QUEUED_CHUNKS = 16


class Attachment:
    """One reader: chunks of (stream name, bytes) until the process has ended."""

    def __init__(self, streams: frozenset[str]) -> None:
        self.wanted = streams
        self._send, self.chunks = trio.open_memory_channel[tuple[str, bytes]](QUEUED_CHUNKS)

    async def put(self, name: str, data: bytes) -> bool:
        """False: it has gone."""
        try:
            await self._send.send((name, data))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    def end(self) -> None:
        self._send.close()


class Streams:
    """All attachments of a container, over all its runs; `open` gives it the descriptors of a run."""

    def __init__(self) -> None:
        self.attachments: set[Attachment] = set()
        self._input = -1
        self._terminal = False
        self._outputs: dict[str, int] = {}
        self._input_lock = trio.Lock()
        self.opened = trio.Event()

    def attach(self, stdout: bool, stderr: bool) -> Attachment:
        wanted = {name for name, on in (("stdout", stdout), ("stderr", stderr)) if on}
        attachment = Attachment(frozenset(wanted))
        self.attachments.add(attachment)
        return attachment

    def detach(self, attachment: Attachment) -> None:
        self.attachments.discard(attachment)
        attachment.end()
        attachment.chunks.close()

    def open(self, descriptors: Mapping[str, int]) -> None:
        """`descriptors` by the launcher's names: terminal, or stdin, stdout, stderr. They become ours."""
        self._terminal = "terminal" in descriptors
        for name, fd in descriptors.items():
            os.set_blocking(fd, False)
            if name in ("stdin", "terminal"):
                self._input = fd
            if name != "stdin":
                self._outputs["stdout" if name == "terminal" else name] = fd
        self.opened.set()

    async def pump(self, log: LogWriter | None) -> None:
        """Until every output has ended, then tell the attached. Closes the descriptors also when cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                for name, fd in self._outputs.items():
                    nursery.start_soon(self._pump_one, name, fd, log)
        finally:
            self.close()

    def close(self) -> None:
        for fd in {self._input, *self._outputs.values()} - {-1}:
            trio.lowlevel.notify_closing(fd)
            os.close(fd)
        self._input, self._outputs = -1, {}
        self.opened = trio.Event()
        for attachment in self.attachments:
            attachment.end()
        self.attachments.clear()

    async def _pump_one(self, name: str, fd: int, log: LogWriter | None) -> None:
        while True:
            try:
                data = os.read(fd, READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(fd)
                continue
            except OSError:  # EIO: the last process has closed the terminal
                return
            if not data:
                return
            if log is not None:
                try:
                    log.write(name, data)
                except OSError:
                    log = None  # a full disk: the container goes on without a log
            for attachment in list(self.attachments):
                if name in attachment.wanted and not await attachment.put(name, data):
                    self.attachments.discard(attachment)
            await trio.lowlevel.checkpoint()

    async def write(self, data: bytes) -> bool:
        """To the process' standard input. False: it takes no more."""
        async with self._input_lock:
            view = memoryview(data)
            while view:
                if self._input < 0:
                    return False
                try:
                    view = view[os.write(self._input, view) :]
                except BlockingIOError:
                    try:
                        await trio.lowlevel.wait_writable(self._input)
                    except trio.ClosedResourceError:
                        return False
                except OSError:
                    return False
        return True

    @property
    def takes_input(self) -> bool:
        return self._input >= 0

    async def close_input(self) -> bool:
        """End of file for the process, where its input is a pipe. False: there was none to close."""
        async with self._input_lock:
            if self._terminal or self._input < 0:
                return False
            trio.lowlevel.notify_closing(self._input)
            os.close(self._input)
            self._input = -1
            return True

    def resize(self, rows: int, columns: int) -> bool:
        """False: no terminal."""
        if not self._terminal or self._input < 0:
            return False
        fcntl.ioctl(self._input, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        return True
