"""The lock of a process: held, told apart, given back by the kernel."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from rootless.store import process_lock


def test_one_process_has_it_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert process_lock.holder(path) is None
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            process_lock.take(path, "where\nit listens")
            os.write(tell, b"x")
            signal.pause()
        finally:
            os._exit(0)
    os.read(ready, 1)
    assert process_lock.take(path, "") is None
    assert process_lock.holder(path) == process_lock.Holder(child, "where\nit listens")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert process_lock.holder(path) is None
    fd = process_lock.take(path, "")
    assert fd is not None
    os.close(fd)


def test_the_text_of_one_that_has_gone_is_not_its_successors(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("1\n/somewhere")
    ready, tell = os.pipe()
    go, finish = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            import fcntl

            fd = os.open(path, os.O_RDWR)
            fcntl.lockf(fd, fcntl.LOCK_EX)
            os.write(tell, b"x")
            os.close(finish)
            os.read(go, 1)
        finally:
            os._exit(0)
    os.read(ready, 1)
    assert process_lock.holder(path) == process_lock.Holder(child, None)
    os.close(go)
    os.close(finish)
    os.waitpid(child, 0)
