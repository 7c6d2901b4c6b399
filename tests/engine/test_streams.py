"""Pumping a process' streams: real pipes, trio's clock."""

from __future__ import annotations

import os
import time
from pathlib import Path

import trio

from rootless.engine import logs
from rootless.engine.logs import LogWriter
from rootless.engine.streams import Streams


def test_output_goes_to_the_log_and_to_whoever_is_attached(tmp_path: Path) -> None:
    async def main() -> tuple[bytes, bytes]:
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        in_read, in_write = os.pipe()
        streams = Streams()
        both, errors = streams.attach(True, True), streams.attach(False, True)
        streams.open({"stdin": in_write, "stdout": out_read, "stderr": err_read})
        log = LogWriter(tmp_path / "log", time.time_ns)
        seen: dict[str, bytes] = {"both": b"", "errors": b""}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(streams.pump, log)
            os.write(out_write, b"one\ntwo")
            os.write(err_write, b"bad\n")
            assert await streams.write(b"input")
            assert await streams.close_input()
            assert not await streams.write(b"late")
            os.close(out_write)
            os.close(err_write)
            async for _, data in both.chunks:
                seen["both"] += data
            async for _, data in errors.chunks:
                seen["errors"] += data
        assert os.read(in_read, 10) == b"input"
        assert os.read(in_read, 10) == b""
        os.close(in_read)
        log.close()
        return seen["both"], seen["errors"]

    both, errors = trio.run(main)
    assert sorted(both) == sorted(b"one\ntwobad\n")
    assert errors == b"bad\n"
    lines = [(line.stream, line.data) for line in logs.read_all(tmp_path / "log")]
    assert sorted(lines) == [("stderr", b"bad\n"), ("stdout", b"one\n"), ("stdout", b"two")]


def test_a_reader_that_leaves_does_not_hold_the_rest() -> None:
    async def main() -> None:
        read, write = os.pipe()
        streams = Streams()
        leaving, staying = streams.attach(True, True), streams.attach(True, True)
        streams.open({"stdout": read})
        got = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(streams.pump, None)
            streams.detach(leaving)
            os.write(write, b"x" * 1000)
            os.close(write)
            async for _, data in staying.chunks:
                got += data
        assert got == b"x" * 1000

    trio.run(main)


def test_a_log_is_followed_to_its_end(tmp_path: Path) -> None:
    async def main() -> list[bytes]:
        path = tmp_path / "log"
        log: LogWriter | None = LogWriter(path, time.time_ns)
        got: list[bytes] = []
        async with trio.open_nursery() as nursery:

            async def follow() -> None:
                async for line in logs.follow(path, lambda: log, 0):
                    got.append(line.data)
                    if line.data == b"1\n":
                        first.set()

            first = trio.Event()
            nursery.start_soon(follow)
            assert log is not None
            log.write("stdout", b"1\n2")
            await first.wait()
            ending, log = log, None
            ending.close()
        return got

    assert trio.run(main) == [b"1\n", b"2"]
