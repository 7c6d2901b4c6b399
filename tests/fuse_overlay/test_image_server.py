"""The image server with the real kernel: the mounted tree is the archive's, and killing the server loses nothing."""

from __future__ import annotations

import ctypes
import hashlib
import io
import os
import random
import signal
import stat
import tarfile
import threading
import time
import traceback
from pathlib import Path

import pytest

from fuse_overlay import LayerWriter, Tree, merge_tree, open_tree
from tests.fuse_overlay.mounting import libc, serving, start_server, with_mount

pytestmark = pytest.mark.kernel


def sample() -> bytes:
    """A tar with every kind of member and enough files to need several directory reads."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", link: str = "", mode: int = 0o644) -> None:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode, info.size, info.mtime = kind, link, mode, len(data), 1_700_000_000.25
            tar.addfile(info, io.BytesIO(data))

        add("dir", tarfile.DIRTYPE, mode=0o750)
        add("dir/file", data=b"content\n", mode=0o4755)
        add("dir/hard", tarfile.LNKTYPE, link="dir/file")
        add("dir/link", tarfile.SYMTYPE, link="file")
        add("dir/fifo", tarfile.FIFOTYPE)
        add("empty")
        add("big", data=random.Random(1).randbytes(8 << 20))
        add("n" * 255, data=b"long")
        for number in range(3000):
            add(f"many/file{number}", data=str(number).encode())
    return made.getvalue()


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("layer")
    writer = LayerWriter(directory)
    writer.write(sample())
    writer.finish()
    merge_tree([directory], directory / "tree")
    return directory


@pytest.fixture
def tree(layer: Path) -> Tree:
    return open_tree(layer / "tree", [layer])


def test_the_mounted_tree_is_the_archives(tree: Tree, tmp_path: Path) -> None:
    def look(_fd: int, _pid: int) -> None:
        status = (tmp_path / "dir/file").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_nlink, status.st_size) == (0o4755, 2, 8)
        assert status.st_mtime_ns == 1_700_000_000_250_000_000
        assert (tmp_path / "dir/hard").stat().st_ino == status.st_ino
        assert os.readlink(tmp_path / "dir/link") == "file"
        assert (tmp_path / "dir/link").read_bytes() == b"content\n"
        assert stat.S_ISFIFO((tmp_path / "dir/fifo").stat().st_mode)
        assert (tmp_path / "empty").read_bytes() == b""
        assert (tmp_path / ("n" * 255)).read_bytes() == b"long"
        assert (tmp_path / "big").read_bytes() == random.Random(1).randbytes(8 << 20)
        names = {entry.name: entry.inode() for entry in os.scandir(tmp_path / "many")}
        assert len(names) == 3000
        assert all((tmp_path / "many" / f"file{i}").read_text() == str(i) for i in range(0, 3000, 7))
        assert names["file5"] == (tmp_path / "many/file5").stat().st_ino
        with pytest.raises(FileNotFoundError):
            (tmp_path / "absent").stat()
        with pytest.raises(OSError, match="Read-only"):
            (tmp_path / "new").write_text("x")

    with_mount(serving(tree), tmp_path, look)


def test_a_killed_server_is_not_noticed(tree: Tree, tmp_path: Path) -> None:
    wanted = hashlib.sha256(random.Random(1).randbytes(8 << 20)).digest()

    def look(fuse_fd: int, server: int) -> None:
        readers = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                try:
                    for _ in range(5):
                        fd = os.open(tmp_path / "big", os.O_RDONLY)
                        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # so that each round asks the server
                        digest = hashlib.sha256()
                        while data := os.read(fd, 65536):
                            digest.update(data)
                        os.close(fd)
                        if digest.digest() != wanted:
                            os._exit(1)
                    os._exit(0)
                except BaseException:
                    traceback.print_exc()
                    os._exit(2)
            readers.append(pid)
        for _ in range(6):
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
            server = start_server(fuse_fd, serving(tree), resume=True)
            (tmp_path / "dir/file").stat()
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in readers] == [0, 0, 0]
        os.kill(server, signal.SIGKILL)
        start_server(fuse_fd, serving(tree), resume=True)

    with_mount(serving(tree), tmp_path, look)


@pytest.mark.timeout(600)  # the server has idle priority and is to die: on a busy machine that takes long
def test_one_killed_while_it_takes_its_first_request_is_not_noticed_either(tree: Tree, tmp_path: Path) -> None:
    """Its asker got EIO where the kernel had to make a page for the request of a process that was to die. A busy
    process on its CPU keeps the server from running between the request and its end."""
    cpu = {min(os.sched_getaffinity(0))}

    def look(fuse_fd: int, server: int) -> None:
        busy = os.fork()
        if busy == 0:
            libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            os.sched_setaffinity(0, cpu)
            while True:
                pass
        failures: list[OSError] = []

        def ask(number: int) -> None:
            try:
                (tmp_path / f"many/file{number}").stat()
            except OSError as error:
                failures.append(error)

        for number in range(10):
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
            server = start_server(fuse_fd, serving(tree), resume=True)
            for step in range(2):  # quickly one after the other: it gets a companion, and shares its memory with that
                (tmp_path / f"many/file{1000 + 2 * number + step}").stat()
            time.sleep(0.02)  # it waits for a request
            os.sched_setaffinity(server, cpu)
            os.sched_setscheduler(server, os.SCHED_IDLE, os.sched_param(0))
            asker = threading.Thread(target=ask, args=(number,))
            asker.start()
            time.sleep(0.002)
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
            server = start_server(fuse_fd, serving(tree), resume=True)
            asker.join()
        os.kill(busy, signal.SIGKILL)
        assert not failures

    with_mount(serving(tree), tmp_path, look)


def test_kernel_overlayfs_works_on_top(tree: Tree, tmp_path: Path) -> None:
    lower, upper, work, merged = (tmp_path / name for name in ("lower", "upper", "work", "merged"))
    for directory in (lower, upper, work, merged):
        directory.mkdir()

    def look(_fd: int, _pid: int) -> None:
        options = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr".encode()
        if libc.mount(b"overlay", os.fsencode(merged), b"overlay", 0, options):
            raise OSError(ctypes.get_errno(), "overlay")
        with open(merged / "dir/file", "ab") as file:
            file.write(b"more")
        assert (merged / "dir/file").read_bytes() == b"content\nmore"
        assert (lower / "dir/file").read_bytes() == b"content\n"
        (merged / "empty").unlink()
        assert not (merged / "empty").exists()
        (merged / "many/file0").rename(merged / "moved")
        assert (merged / "moved").read_text() == "0"
        assert len(list((merged / "many").iterdir())) == 2999

    with_mount(serving(tree), lower, look)


def test_a_tar_that_shrinks_is_an_error_not_a_crash(layer: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("layer.tar", "index", "tree"):
        (copy / name).write_bytes((layer / name).read_bytes())
    tree = open_tree(copy / "tree", [copy])
    os.truncate(copy / "layer.tar", 4096)
    target = tmp_path / "target"
    target.mkdir()

    def look(_fd: int, _pid: int) -> None:
        with pytest.raises(OSError, match="Input/output"):
            (target / "big").read_bytes()
        assert (target / "dir").is_dir()

    with_mount(serving(tree), target, look)
