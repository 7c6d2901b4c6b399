"""A container's log: docker's json-file, one JSON object a line, {"log", "stream", "time"}.

Written by one task; read by any number, also of a container that ended long ago."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from rootless.model import clock

MAX_LINE_BYTES = 16 << 10  # longer lines are written in pieces, as docker does
READ_BYTES = 256 << 10


@dataclass(frozen=True)
class LogLine:
    """`data` with its newline, unless it is a piece of a longer line."""

    stream: str
    time: str
    data: bytes


class LogWriter:
    """Appends. Bytes without a newline wait for the rest of their line."""

    def __init__(self, path: Path, now_ns: Callable[[], int]) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._now_ns = now_ns
        self._partial: dict[str, bytes] = {}
        self.grown = trio.Event()  # replaced at every write

    def write(self, stream: str, data: bytes) -> None:
        """Raises OSError (disk full): the caller goes on without a log."""
        pending = self._partial.pop(stream, b"") + data
        lines = []
        start = 0
        while (end := pending.find(b"\n", start)) >= 0:
            lines.append(pending[start : end + 1])
            start = end + 1
        rest = pending[start:]
        while len(rest) >= MAX_LINE_BYTES:
            lines.append(rest[:MAX_LINE_BYTES])
            rest = rest[MAX_LINE_BYTES:]
        if rest:
            self._partial[stream] = rest
        if lines:
            self._append(stream, lines)

    def close(self) -> None:
        """Write what has no newline. Idempotent."""
        if self._fd < 0:
            return
        try:
            for stream, rest in self._partial.items():
                self._append(stream, [rest])
        except OSError:
            pass  # a full disk: these bytes are lost, the container's end is not
        self._partial.clear()
        os.close(self._fd)
        self._fd = -1
        self.grown.set()

    def _append(self, stream: str, lines: list[bytes]) -> None:
        time = clock.rfc3339(self._now_ns())
        entries = [
            json.dumps({"log": line.decode("utf-8", "replace"), "stream": stream, "time": time}, ensure_ascii=False)
            for line in lines
        ]
        data = ("\n".join(entries) + "\n").encode()
        while data:
            data = data[os.write(self._fd, data) :]
        grown, self.grown = self.grown, trio.Event()
        grown.set()


def parse_line(line: bytes) -> LogLine | None:
    """An entry of the file; None for one that a crash cut off."""
    try:
        value = json.loads(line)
        return LogLine(value["stream"], value["time"], value["log"].encode())
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def read_all(path: Path, size: int | None = None) -> Iterator[LogLine]:
    """All entries (of the first `size` bytes); none where there is no log."""
    left = float("inf") if size is None else size
    try:
        with open(path, "rb") as file:
            for line in file:
                left -= len(line)
                if left < 0:
                    return
                if line.endswith(b"\n") and (entry := parse_line(line)) is not None:
                    yield entry
    except FileNotFoundError:
        return


def read_tail(path: Path, count: int, size: int | None = None) -> list[LogLine]:
    """The last `count` entries (of the first `size` bytes), read from the end."""
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END) if size is None else size
            data = b""
            while end > 0 and data.count(b"\n") <= count:
                start = max(0, end - READ_BYTES)
                file.seek(start)
                data = file.read(end - start) + data
                end = start
    except FileNotFoundError:
        return []
    lines = data.splitlines()[-count:] if count else []
    return [entry for line in lines if (entry := parse_line(line)) is not None]


async def follow(path: Path, writer: Callable[[], LogWriter | None], start: int) -> AsyncIterator[LogLine]:
    """Entries from byte `start` on, as they are written, until `writer` gives None and the file is read."""
    offset = start
    rest = b""
    while True:
        current = writer()
        grown = current.grown if current is not None else None
        data = await trio.to_thread.run_sync(_read_from, path, offset)
        offset += len(data)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if (entry := parse_line(line)) is not None:
                yield entry
        if not data:
            if grown is None:
                return
            await grown.wait()


def _read_from(path: Path, offset: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(READ_BYTES)
    except FileNotFoundError:
        return b""
