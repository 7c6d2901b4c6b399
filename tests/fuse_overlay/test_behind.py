"""Work behind its owner's back."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from fuse_overlay import Behind, LayerWriter

LARGE = bytes(1 << 20)


def test_large_pieces_are_worked_on_in_order_while_their_owner_goes_on() -> None:
    behind, go = Behind(), threading.Event()
    seen: list[int] = []

    def work(data: bytes | memoryview) -> None:
        assert go.wait(20)
        seen.append(len(data))

    behind.give(work, LARGE)
    assert not seen
    go.set()
    behind.give(work, LARGE + b"x")
    behind.wait()
    assert seen == [len(LARGE), len(LARGE) + 1]
    behind.end()
    behind.end()


def test_small_pieces_and_views_are_worked_on_at_once() -> None:
    behind = Behind()
    threads: list[threading.Thread] = []
    for data in (b"small", memoryview(bytearray(LARGE))):
        behind.give(lambda _: threads.append(threading.current_thread()), data)
    assert threads == [threading.current_thread()] * 2


def test_where_no_cpu_is_idle_everything_is_worked_on_at_once() -> None:
    behind = Behind(idle_cpus=False)
    threads: list[threading.Thread] = []
    behind.give(lambda _: threads.append(threading.current_thread()), LARGE)
    assert threads == [threading.current_thread()]


def test_what_goes_wrong_is_raised_by_the_next_call() -> None:
    def fail(_: bytes | memoryview) -> None:
        raise OSError(28, "No space left on device")

    behind = Behind()
    behind.give(fail, LARGE)
    with pytest.raises(OSError, match="No space"):
        behind.give(fail, LARGE)
    behind.wait()  # told once
    behind.end()


def test_a_layer_on_a_full_disk_is_an_error_and_nothing_is_written_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def full(fd: int, data: bytes) -> int:
        written.append(fd)
        raise OSError(28, "No space left on device")

    writer = LayerWriter(tmp_path)
    monkeypatch.setattr("fuse_overlay.layers.store.os.write", full)
    writer.write(LARGE)
    with pytest.raises(OSError, match="No space"):
        writer.write(LARGE)
    writer.abort()
    assert len(written) == 1
