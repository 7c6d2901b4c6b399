"""The writable union where something is removed that the kernel still holds, and its inode is free for another."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fuse_overlay import Tree
from tests.fuse_overlay.conftest import Mounted
from tests.fuse_overlay.mounting import with_union

pytestmark = pytest.mark.kernel


def test_a_file_with_the_inode_of_what_was_removed_and_is_still_held(mounted: Mounted) -> None:
    """The kernel forgets the removed one after the new one was made; both have one node id where inodes are reused."""

    def look(target: Path) -> None:
        for number in range(20):
            link, directory = target / f"link{number}", target / f"directory{number}"
            link.symlink_to("nowhere")
            directory.mkdir()
            held = [os.open(path, os.O_PATH | os.O_NOFOLLOW) for path in (link, directory)]
            link.unlink()
            directory.rmdir()
            made = [os.open(target / f"{kind}{number}", os.O_CREAT | os.O_RDWR) for kind in "ab"]
            for fd in held:
                os.close(fd)
            (target / f"new{number}").touch()  # the kernel says what it forgets with the next requests
            for fd in made:
                os.ftruncate(fd, 5)
                assert os.fstat(fd).st_size == 5
                os.close(fd)

    mounted(look)


def test_a_file_with_the_inode_of_what_is_still_held_and_itself_unlinked(mounted: Mounted) -> None:
    """The kernel forgets the removed one when the new one has no name left and is open."""

    def look(target: Path) -> None:
        for number in range(200):  # others may take the inode first
            link = target / f"link{number}"
            link.symlink_to("nowhere")
            held = os.open(link, os.O_PATH | os.O_NOFOLLOW)
            link.unlink()
            fd = os.open(target / f"a{number}", os.O_CREAT | os.O_RDWR)
            (target / f"a{number}").unlink()
            os.close(held)
            (target / f"new{number}").touch()  # the kernel says what it forgets with the next requests
            os.ftruncate(fd, 5)
            assert os.fstat(fd).st_size == 5
            os.close(fd)

    mounted(look)


def test_a_directory_does_not_become_one_that_was_removed_and_is_still_held(mounted: Mounted) -> None:
    """It had the node id, and nothing could be made in it."""

    def look(target: Path) -> None:
        for number in range(20):  # others may take the inode first
            for remove in (os.rmdir, lambda path: os.rename(target / "empty", path)):
                (target / "empty").mkdir(exist_ok=True)
                (target / "old").mkdir()
                held = os.open(target / "old", os.O_RDONLY)
                remove(target / "old")
                (target / f"new{number}").mkdir()
                (target / f"new{number}" / "file").write_text("content")
                assert os.listdir(target / f"new{number}") == ["file"]
                assert os.listdir(held) == [] or remove is not os.rmdir
                assert os.fstat(held).st_nlink == 0
                os.close(held)
                subprocess.run(["rm", "-r", target / f"new{number}"], check=True)
                if remove is not os.rmdir:
                    (target / "old").rmdir()

    mounted(look)


def test_links_and_pipes_do_not_become_what_was_removed_and_is_still_held(mounted: Mounted) -> None:
    """A link had the old one's text, and a pipe the old one's reader."""

    def look(target: Path) -> None:
        for _ in range(20):
            (target / "old").symlink_to("old text")
            held = os.open(target / "old", os.O_PATH | os.O_NOFOLLOW)
            assert os.readlink(target / "old") == "old text"
            (target / "old").unlink()
            (target / "new").symlink_to("new text")
            assert os.readlink(target / "new") == "new text"
            assert os.readlink(b"", dir_fd=held) == b"old text"
            (target / "new").unlink()
            os.close(held)

            os.mkfifo(target / "old")
            old = os.open(target / "old", os.O_RDWR | os.O_NONBLOCK)
            (target / "old").unlink()
            os.mkfifo(target / "new")
            new = os.open(target / "new", os.O_RDWR | os.O_NONBLOCK)
            os.write(new, b"for the new one")
            with pytest.raises(BlockingIOError):
                os.read(old, 100)
            (target / "new").unlink()
            os.close(old)
            os.close(new)

    mounted(look)


def test_what_was_removed_and_forgotten_keeps_no_descriptor(tree: Tree, tmp_path: Path) -> None:
    def look(_fd: int, server: int) -> None:
        target = tmp_path / "target"

        def open_files() -> int:
            (target / "asked").touch()  # the kernel says what it forgets with the next requests
            (target / "asked").unlink()
            return len(os.listdir(f"/proc/{server}/fd"))

        before = open_files()
        for _ in range(50):
            (target / "directory").mkdir()
            (target / "directory").rmdir()
            (target / "link").symlink_to("x")
            (target / "link").unlink()
            os.mkfifo(target / "pipe")
            (target / "pipe").unlink()
        assert open_files() < before + 20

    with_union(tmp_path, tree, look)
