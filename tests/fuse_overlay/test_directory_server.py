"""A live directory of the machine behind a FUSE mount of the real kernel."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from fuse_overlay import serve_directory
from fuse_overlay.directory_server import VALID_SECONDS
from tests.fuse_overlay.mounting import Serve, libc, start_server, with_mount

pytestmark = pytest.mark.kernel
BIG = os.urandom(3 << 20)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / "source"
    (top / "dir" / "sub").mkdir(parents=True)
    (top / "dir" / "file").write_text("content\n")
    (top / "dir" / "file").chmod(0o4751)
    (top / "dir" / "link").symlink_to("file")
    (top / "outside").symlink_to("/etc/passwd")
    (top / "big").write_bytes(BIG)
    for name in ("home", "tmp"):
        (top / name).mkdir()
        (top / name / "private").write_text("private")
    os.mkfifo(top / "fifo")
    for number in range(2000):
        (top / "dir" / "sub" / f"file{number}").write_text(str(number))
    return top


@pytest.fixture
def target(tmp_path: Path) -> Path:
    made = tmp_path / "target"
    made.mkdir()
    return made


def serving(source: Path) -> Serve:
    journal = os.memfd_create("journal")
    return lambda fd, resume: serve_directory(
        fd, str(source), journal_fd=journal, exclude=("home", "tmp", "absent"), resume=resume
    )


def test_what_is_there_is_shown_as_roots(source: Path, target: Path) -> None:
    def look(_fd: int, _server: int) -> None:
        status = (target / "dir" / "file").stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, 0o4751)
        assert (target / "dir" / "link").read_text() == "content\n"
        assert os.readlink(target / "outside") == "/etc/passwd"
        assert (target / "big").read_bytes() == BIG
        assert sorted(os.listdir(target)) == sorted(os.listdir(source))
        assert len(os.listdir(target / "dir" / "sub")) == 2000
        assert {e.name for e in os.scandir(target / "dir" / "sub") if e.is_file()} == set(
            os.listdir(source / "dir" / "sub")
        )
        assert not (target / "absent").exists()
        with pytest.raises(OSError) as caught:
            (target / "new").write_text("x")
        assert caught.value.errno == errno.EROFS

    with_mount(serving(source), target, look)


def test_what_is_left_out_is_an_empty_directory(source: Path, target: Path) -> None:
    def look(_fd: int, _server: int) -> None:
        assert os.listdir(target / "home") == []
        assert not (target / "home" / "private").exists()
        assert stat.S_IMODE((target / "tmp").stat().st_mode) == 0o1777
        assert stat.S_IMODE((target / "home").stat().st_mode) == 0o755

    with_mount(serving(source), target, look)


def test_what_the_user_may_not_read_stays_unreadable(target: Path) -> None:
    def look(_fd: int, _server: int) -> None:
        with pytest.raises(PermissionError):
            (target / "shadow").read_text()
        assert (target / "shadow").stat().st_size == Path("/etc/shadow").stat().st_size

    with_mount(serving(Path("/etc")), target, look)


def test_changes_outside_are_seen(source: Path, target: Path) -> None:
    def look(_fd: int, _server: int) -> None:
        path = target / "dir" / "file"
        assert path.read_text() == "content\n"
        (source / "dir" / "new").write_text("replaced")
        (source / "dir" / "new").rename(source / "dir" / "file")
        (source / "dir" / "link").unlink()
        end = time.monotonic() + VALID_SECONDS + 5
        while path.read_text() != "replaced" and time.monotonic() < end:
            time.sleep(0.05)
        assert path.read_text() == "replaced"
        while os.path.lexists(target / "dir" / "link") and time.monotonic() < end:
            time.sleep(0.05)
        assert not os.path.lexists(target / "dir" / "link")

    with_mount(serving(source), target, look)


def test_a_server_that_was_killed_is_followed_by_one_that_knows_its_nodes(source: Path, target: Path) -> None:
    serve = serving(source)

    def look(fd: int, server: int) -> None:
        wanted = hashlib.sha256(BIG).hexdigest()
        opened = os.open(target / "big", os.O_RDONLY)
        for _ in range(4):
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
            server = start_server(fd, serve, resume=True)
            os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
            assert hashlib.sha256(os.pread(opened, len(BIG), 0)).hexdigest() == wanted
            assert (target / "dir" / "link").read_text() == "content\n"
            assert len(os.listdir(target / "dir" / "sub")) == 2000
        os.close(opened)

    with_mount(serve, target, look)


def test_overlayfs_takes_it_as_its_lower_layer(source: Path, target: Path, tmp_path: Path) -> None:
    def look(_fd: int, _server: int) -> None:
        merged = tmp_path / "merged"
        for name in ("upper", "work"):
            (tmp_path / name).mkdir()
        merged.mkdir()
        options = f"lowerdir={target},upperdir={tmp_path}/upper,workdir={tmp_path}/work,userxattr"
        assert libc.mount(b"overlay", os.fsencode(merged), b"overlay", 0, options.encode()) == 0
        (merged / "dir" / "file").write_text("changed")
        (merged / "home" / "new").write_text("new")
        (merged / "big").unlink()
        assert sorted(os.listdir(merged / "home")) == ["new"]
        assert (source / "dir" / "file").read_text() == "content\n"
        assert (source / "big").exists()
        assert not (merged / "big").exists()
        libc.umount2(os.fsencode(merged), 2)

    with_mount(serving(source), target, look)
