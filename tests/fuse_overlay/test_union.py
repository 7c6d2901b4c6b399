"""The writable union behind a FUSE mount of the real kernel, over the index of a tar."""

from __future__ import annotations

import errno
import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fuse_overlay import Tree, UnionOptions, merge_tree, open_tree
from fuse_overlay.layers.archive import write_upper
from fuse_overlay.upper import Upper
from tests.fuse_overlay.conftest import BIG, Mounted
from tests.fuse_overlay.mounting import enter_namespaces, in_child, with_union
from tests.fuse_overlay.test_layers import write_layer

pytestmark = pytest.mark.kernel


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    made = tmp_path / "numbers"
    made.mkdir()
    return made


def test_what_is_written_is_there_and_in_the_next_mount(mounted: Mounted) -> None:
    def write(top: Path) -> None:
        (top / "etc" / "new").write_text("new")
        with open(top / "etc" / "passwd", "a") as file:
            file.write("more\n")
        (top / "etc" / "big").unlink()
        (top / "usr" / "share" / "file7").rename(top / "etc" / "seven")
        os.symlink("seven", top / "etc" / "link")
        os.link(top / "etc" / "seven", top / "etc" / "seven2")

    def read(top: Path) -> None:
        assert sorted(os.listdir(top / "etc")) == ["link", "new", "passwd", "seven", "seven2"]
        assert (top / "etc" / "passwd").read_text() == "root:x:0:0\nmore\n"
        assert (top / "etc" / "link").read_text() == "7"
        assert (top / "etc" / "seven").stat().st_nlink == 2
        assert len(os.listdir(top / "usr" / "share")) == 299

    mounted(write)
    mounted(read)


def test_an_inode_keeps_its_number_when_it_is_copied_up(mounted: Mounted, numbers: Path) -> None:
    def look(top: Path) -> None:
        path = top / "etc" / "passwd"
        before = path.stat().st_ino
        with open(path, "a") as file:
            file.write("x")
            assert os.fstat(file.fileno()).st_ino == before
        path.rename(top / "moved")
        assert (top / "moved").stat().st_ino == before
        (top / "moved").rename(path)
        (numbers / "passwd").write_text(str(before))

    def again(top: Path) -> None:
        assert (numbers / "passwd").read_text() == str((top / "etc" / "passwd").stat().st_ino)

    mounted(look)
    mounted(again)


def seen(top: Path) -> dict[str, tuple[int, int]]:
    """(inode, links) of what a directory lists, which both its listing and lstat(2) say."""
    listed = {entry.name: entry.inode() for entry in os.scandir(top)}
    found = {name: (top / name).lstat() for name in listed}
    assert listed == {name: status.st_ino for name, status in found.items()}
    return {name: (status.st_ino, status.st_nlink) for name, status in found.items()}


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.open("r+b").write(b"new"),
        lambda path: os.truncate(path, 1),
        lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
        lambda path: path.chmod(0o600),
        lambda path: os.utime(path, (1, 1)),
        lambda path: os.setxattr(path, "user.a", b"1"),
        lambda path: path.rename(path.with_name("three")),
        lambda path: os.link(path, path.with_name("three")),
    ],
    ids=["write", "truncate", "open", "chmod", "utime", "setxattr", "rename", "link"],
)
def test_one_of_several_names_of_a_file_is_a_file_of_its_own_once_changed(
    mounted: Mounted, change: Callable[[Path], None]
) -> None:
    def look(top: Path) -> None:
        before = seen(top / "names")
        assert before["one"] == before["two"]
        change(top / "names" / "one")
        after = seen(top / "names")
        assert after.pop("two") == before["two"]
        (number, links), *others = after.values()
        assert links == len(after)
        assert number != before["two"][0]
        assert others in ([], [(number, links)])

    mounted(look)


def test_a_removed_directory_that_comes_again_is_empty(mounted: Mounted) -> None:
    def look(top: Path) -> None:
        share = top / "usr" / "share"
        with pytest.raises(OSError) as caught:
            share.rmdir()
        assert caught.value.errno == errno.ENOTEMPTY
        with os.scandir(share) as entries:
            for number, entry in enumerate(entries):  # cookies stay while the directory changes
                os.unlink(entry.path)
                (share / f"other{number}").touch()
                (share / f"other{number}").unlink()
        share.rmdir()
        assert not share.exists()
        share.mkdir()
        assert os.listdir(share) == []

    def again(top: Path) -> None:
        assert os.listdir(top / "usr" / "share") == []

    mounted(look)
    mounted(again)


def test_open_files_outlive_their_names(mounted: Mounted) -> None:
    def look(top: Path) -> None:
        new = os.open(top / "new", os.O_RDWR | os.O_CREAT)
        os.write(new, b"abc")
        old = os.open(top / "etc" / "big", os.O_RDWR)
        (top / "new").unlink()
        (top / "etc" / "big").unlink()
        assert (os.fstat(new).st_nlink, os.fstat(old).st_nlink) == (0, 0)
        os.pwrite(new, b"d", 3)
        assert os.pread(new, 10, 0) == b"abcd"
        assert os.pread(old, len(BIG), 0) == BIG
        os.pwrite(old, b"changed", 0)
        assert os.pread(old, 10, 0) == b"changed" + BIG[7:10]
        unnamed = os.open(top, os.O_TMPFILE | os.O_RDWR)
        os.write(unnamed, b"unnamed")
        os.link(f"/proc/self/fd/{unnamed}", "named", src_dir_fd=unnamed, dst_dir_fd=os.open(top, os.O_RDONLY))
        assert (top / "named").read_bytes() == b"unnamed"

    mounted(look)


def test_directories_of_the_image_give_exdev_and_ours_move(mounted: Mounted) -> None:
    def look(top: Path) -> None:
        with pytest.raises(OSError) as caught:
            os.rename(top / "usr", top / "usr2")
        assert caught.value.errno == errno.EXDEV
        (top / "made").mkdir(0o750)
        (top / "made" / "file").write_text("x")
        (top / "made").rename(top / "etc" / "made")
        assert (top / "etc" / "made" / "file").read_text() == "x"
        assert stat.S_IMODE((top / "etc" / "made").stat().st_mode) == 0o750

    mounted(look)


def test_marks_are_hidden(mounted: Mounted) -> None:
    def look(top: Path) -> None:
        path = top / "etc" / "passwd"
        os.setxattr(path, "user.mine", b"1")
        assert os.listxattr(path) == ["user.mine"]
        os.setxattr(
            path, "user.overlay.opaque", b"y"
        )  # a mark of a union in the container is stored under another name
        assert sorted(os.listxattr(path)) == ["user.mine", "user.overlay.opaque"]
        assert os.getxattr(path, "user.overlay.opaque") == b"y"

    mounted(look)


def test_a_sparse_file_of_a_layer_is_copied_up_with_its_holes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    content = bytes(1 << 20) + b"data" * 4096 + bytes(1 << 20)
    with open(source / "file", "wb") as file:
        file.seek(1 << 20)
        file.write(b"data" * 4096)
        file.truncate(len(content))
    packed = subprocess.run(["tar", "--sparse", "-C", str(source), "-cf", "-", "."], check=True, capture_output=True)
    write_layer(tmp_path / "layer", packed.stdout)
    merge_tree([tmp_path / "layer"], tmp_path / "tree")
    tree = open_tree(tmp_path / "tree", [tmp_path / "layer"])

    def look(_fd: int, _server: int) -> None:
        with open(tmp_path / "target" / "file", "r+b") as file:
            assert file.read() == content
            assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 1 << 20
            assert os.lseek(file.fileno(), 1 << 20, os.SEEK_HOLE) == (1 << 20) + 16384
            os.pwrite(file.fileno(), b"new", 0)
            assert os.pread(file.fileno(), len(content) + 1, 0) == b"new" + content[3:]
        assert (tmp_path / "upper" / "file").stat().st_blocks * 512 < 100_000

    with_union(tmp_path, tree, look)


def test_an_owner_that_does_not_exist_here_is_noted_at_copy_up(tmp_path: Path) -> None:
    """And what is done to the file afterwards counts: a chmod of it was lost in its export, and so was a chown."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in ("file", "closed", "half", "whole"):
            info = tarfile.TarInfo(name)
            info.uid, info.gid, info.mode = 33, 34, 0o2750
            tar.addfile(info)
    write_layer(tmp_path / "layer", made.getvalue())
    merge_tree([tmp_path / "layer"], tmp_path / "tree")
    tree = open_tree(tmp_path / "tree", [tmp_path / "layer"])

    def look(_fd: int, _server: int) -> None:
        target = tmp_path / "target"
        (target / "file").write_text("changed")
        assert ((target / "file").stat().st_uid, (target / "file").read_text()) == (0, "changed")
        (target / "closed").chmod(0o600)
        os.chown(target / "half", 0, -1)
        os.chown(target / "whole", 0, 0)
        with pytest.raises(OSError, match="Invalid argument"):  # the kernel knows no such id
            os.chown(target / "whole", 5, 0)

    with_union(tmp_path, tree, look, UnionOptions(id_count=1))
    with open(tmp_path / "layer.tar", "w+b") as out:
        write_upper(tmp_path / "upper", tree, out.fileno())
        out.seek(0)
        with tarfile.open(fileobj=out) as tar:
            seen = {one.name: (one.uid, one.gid, one.mode) for one in tar}
    assert seen == {
        "file": (33, 34, 0o750),  # written to
        "closed": (33, 34, 0o600),
        "half": (0, 34, 0o750),
        "whole": (os.getuid(), os.getgid(), 0o750),  # seen from outside: it is root's, without a mark
    }


@pytest.mark.parametrize("writeback", [True, False])
def test_what_is_written_stays_in_the_kernel_or_does_not(tree: Tree, tmp_path: Path, writeback: bool) -> None:
    def look(_fd: int, _server: int) -> None:
        with open(tmp_path / "target" / "file", "wb", buffering=0) as file:
            file.write(b"written")
            assert (tmp_path / "upper" / "file").read_bytes() == (b"" if writeback else b"written")
        assert (tmp_path / "upper" / "file").read_bytes() == b"written"

    with_union(tmp_path, tree, look, UnionOptions(writeback=writeback))


def test_a_work_directory_on_another_mount_is_refused(tmp_path: Path) -> None:
    """Nothing could be renamed from it: changes were shown, and lost."""
    (tmp_path / "upper").mkdir()
    (tmp_path / "work").mkdir()

    def look() -> None:
        enter_namespaces()
        subprocess.run(["mount", "--bind", tmp_path / "work", tmp_path / "work"], check=True)
        with pytest.raises(OSError, match="the work directory must be on the mount") as raised:
            Upper(str(tmp_path / "upper"), str(tmp_path / "work"), 1)
        assert raised.value.filename == str(tmp_path / "work")

    in_child(look)


def test_a_file_is_not_copied_up_for_an_xattr_it_does_not_have(mounted: Mounted, tmp_path: Path) -> None:
    def look(top: Path) -> None:
        with pytest.raises(OSError, match="No data available"):
            os.removexattr(top / "etc" / "passwd", "user.absent")

    mounted(look)
    assert not (tmp_path / "upper" / "etc").exists()
