"""What is pushed into the page cache, and that pushing never blocks the server for good."""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from fuse_overlay import Tree, merge_tree, open_tree
from fuse_overlay.device import Device
from fuse_overlay.image_server import ImageServer
from fuse_overlay.prefetch import Prefetcher
from fuse_overlay.standby import Standby
from fuse_overlay.wire import structs as w
from tests.fuse_overlay.mounting import serving, start_server, with_mount
from tests.fuse_overlay.test_layers import D, F, archive, write_layer

pytestmark = pytest.mark.kernel
DIRECTORIES, FILES = 60, 20


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    layer = tmp_path_factory.mktemp("layers") / "layer"
    members = [(f"d{d}", D, b"", "") for d in range(DIRECTORIES)]
    members += [(f"d{d}/f{f}", F, f"{d} {f}".encode(), "") for d in range(DIRECTORIES) for f in range(FILES)]
    write_layer(layer, archive(*members))
    merge_tree([layer], layer / "tree")
    return open_tree(layer / "tree", [layer])


class Counting:
    """A server that counts READs and pushed files where the test sees them."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._counts = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    @property
    def reads(self) -> int:
        return self._counts[0]

    @property
    def pushed(self) -> int:
        return self._counts[1]

    def serve(self, fuse_fd: int, resume: bool) -> None:
        counts = self._counts
        device = Device(fuse_fd)
        server = ImageServer(device, self._tree, 1)
        read = server.handlers[w.READ]

        def counted_read(unique: int, nodeid: int, body: bytes) -> None:
            counts[0] += 1
            read(unique, nodeid, body)

        class CountedPrefetcher(Prefetcher):
            def _store(self, number: int, content: memoryview) -> None:
                super()._store(number, content)
                counts[1] += 1

        server.handlers[w.READ] = counted_read
        server.prefetcher = CountedPrefetcher(fuse_fd, self._tree, Standby(device, server.handlers))
        device.serve(server.handlers, resume=resume)


def check(directory: Path, number: int, *, list_first: bool = True) -> None:
    entries = os.scandir(directory / f"d{number}")
    for entry in list(entries) if list_first else entries:
        assert Path(entry.path).read_text() == f"{number} {entry.name[1:]}"


@pytest.mark.parametrize("list_first", [True, False])
def test_a_walk_that_reads_is_answered_before_it_asks(tree: Tree, tmp_path: Path, list_first: bool) -> None:
    server = Counting(tree)

    def look(_fd: int, _pid: int) -> None:
        for number in range(DIRECTORIES):
            check(tmp_path, number, list_first=list_first)
        assert server.pushed > DIRECTORIES * (FILES - 1) * 0.9
        assert server.reads < DIRECTORIES / (5 if list_first else 0.9)

    with_mount(server.serve, tmp_path, look)


def test_nothing_is_pushed_when_nobody_reads_or_lists(tree: Tree, tmp_path: Path) -> None:
    server = Counting(tree)

    def look(_fd: int, _pid: int) -> None:
        for number in range(DIRECTORIES):
            assert (tmp_path / f"d{number}/f1").read_text() == f"{number} 1"  # opened by name
        assert (server.reads, server.pushed) == (DIRECTORIES, 0)

    with_mount(server.serve, tmp_path, look)

    def list_only(_fd: int, _pid: int) -> None:
        for number in range(DIRECTORIES):
            os.listdir(tmp_path / f"d{number}")
        assert server.pushed == 0

    with_mount(server.serve, tmp_path, list_only)


def blocked_child(action: Callable[[], bool]) -> int:
    """A process whose `action` has begun and is waiting in the kernel; it exits 0 where it returns True."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, b"!")
            os._exit(0 if action() else 1)
        finally:
            os._exit(2)
    os.read(reading, 1)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "SD":
        pass
    return pid


def push_onto_a_page_that_is_waited_for(mount: Path, server: int) -> list[int]:
    """Leave the server stopped with two requests: the end of a listing, at which it will push a directory's files, and
    a READ of one of them, whose page is locked until the answer."""
    check(mount, 0)  # gives credit
    listing = os.scandir(mount / "d1")
    assert len([next(listing) for _ in range(FILES)]) == FILES
    file = os.open(mount / "d1/f7", os.O_RDONLY)
    os.kill(server, signal.SIGSTOP)
    os.waitpid(server, os.WUNTRACED)
    return [
        blocked_child(lambda: next(listing, None) is None),
        blocked_child(lambda: os.read(file, 100) == b"1 7"),
    ]


def succeeded(pids: list[int]) -> bool:
    return all(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 for pid in pids)


def test_the_standby_answers_while_the_server_waits_for_itself(tree: Tree, tmp_path: Path) -> None:
    def look(_fd: int, server: int) -> None:
        waiting = push_onto_a_page_that_is_waited_for(tmp_path, server)
        os.kill(server, signal.SIGCONT)
        assert succeeded(waiting)
        check(tmp_path, 2)

    with_mount(serving(tree), tmp_path, look)


def test_a_server_killed_while_it_waits_for_itself_can_die(tree: Tree, tmp_path: Path) -> None:
    def look(fuse_fd: int, server: int) -> None:
        waiting = push_onto_a_page_that_is_waited_for(tmp_path, server)
        helpers = [*map(int, Path(f"/proc/{server}/task/{server}/children").read_text().split())]
        assert helpers  # the standby, and maybe the companion
        for helper in helpers:
            os.kill(helper, signal.SIGSTOP)
        os.kill(server, signal.SIGCONT)
        while Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[0] != "D":
            pass  # it stores
        os.kill(server, signal.SIGKILL)
        for helper in helpers:
            os.kill(helper, signal.SIGCONT)
        os.waitpid(server, 0)
        start_server(fuse_fd, serving(tree), resume=True)
        assert succeeded(waiting)
        check(tmp_path, 2)

    with_mount(serving(tree), tmp_path, look)
