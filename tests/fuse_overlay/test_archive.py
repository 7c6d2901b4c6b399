"""Entries as tars and back, and upper directories as layers, as changes and as whole file systems."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_overlay import Tree, merge_tree, open_tree, upper_changes, write_merged, write_upper
from fuse_overlay.layers.emit import END_OF_ARCHIVE, header, padding
from fuse_overlay.layers.entry import Entry
from fuse_overlay.layers.tar import TarParser
from tests.fuse_overlay.test_layers import D, F, H, S, archive, tree_of, write_layer

NAMES = st.binary(min_size=1, max_size=40).filter(
    lambda name: b"/" not in name and b"\0" not in name and name.strip(b".")
)
PATHS = st.lists(NAMES, min_size=1, max_size=12).map(b"/".join)
IDS = st.integers(0, 2**32 - 2)


@given(
    path=PATHS,
    kind=st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK]),
    mode=st.integers(0, 0o7777),
    uid=IDS,
    gid=IDS,
    size=st.integers(0, 3000) | st.integers(8 << 30, 9 << 30),
    seconds=st.integers(-(2**33), 2**33),
    rdev=st.integers(0, 2**32 - 1),
    link=PATHS,
    hard=st.booleans(),
    xattrs=st.dictionaries(st.sampled_from([b"user.a", b"security.capability"]), st.binary(max_size=30)),
)
def test_an_entry_comes_back_as_it_was(
    path: bytes,
    kind: int,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    seconds: int,
    rdev: int,
    link: bytes,
    hard: bool,
    xattrs: dict[bytes, bytes],
) -> None:
    regular = kind == stat.S_IFREG
    entry = Entry(
        path,
        kind | mode,
        uid,
        gid,
        size if regular and not hard else 0,
        seconds * 10**9,
        rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
        link=link if kind == stat.S_IFLNK or (regular and hard) else b"",
        hard_link=regular and hard,
        xattrs=xattrs,
    )
    parser = TarParser()
    data = header(entry)
    assert len(data) % 512 == 0
    (got,) = parser.feed(data)
    entry.data_offset = len(data)
    assert got == entry


def test_other_programs_read_it() -> None:
    entries = [Entry(b"d", stat.S_IFDIR | 0o755), Entry(b"d/" + b"n" * 200, stat.S_IFREG | 0o4755, size=3)]
    data = header(entries[0]) + header(entries[1]) + b"abc" + padding(3) + END_OF_ARCHIVE
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert [member.name for member in tar] == ["d", "d/" + "n" * 200]
        assert tar.getmembers()[1].mode == 0o4755
        file = tar.extractfile(tar.getmembers()[1])
        assert file is not None
        assert file.read() == b"abc"


BASE = archive(
    ("etc", D, b"", ""),
    ("etc/kept", F, b"kept", ""),
    ("etc/gone", F, b"gone", ""),
    ("old", D, b"", ""),
    ("old/a", F, b"a", ""),
    ("old/b", F, b"b", ""),
    ("was-dir", D, b"", ""),
    ("was-dir/x", F, b"x", ""),
    ("was-file", F, b"y", ""),
    ("hard", H, b"", "etc/kept"),
    ("untouched", D, b"", ""),
)


@pytest.fixture
def base(tmp_path: Path) -> Tree:
    write_layer(tmp_path / "base", BASE)
    merge_tree([tmp_path / "base"], tmp_path / "base-tree")
    return open_tree(tmp_path / "base-tree", [tmp_path / "base"])


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    """Whiteouts of every kind but device nodes, which an ordinary user cannot make (see tests/e2e)."""
    upper = tmp_path / "upper"
    (upper / "etc").mkdir(parents=True)
    os.setxattr(upper / "etc", "user.overlay.opaque", b"x")
    (upper / "etc" / "gone").touch()
    os.setxattr(upper / "etc" / "gone", "user.overlay.whiteout", b"")
    (upper / "etc" / "new").write_bytes(b"new" * 200_000)
    os.setxattr(upper / "etc" / "new", "user.mine", b"1")
    os.setxattr(upper / "etc" / "new", "user.overlay.origin", b"1")
    os.setxattr(upper / "etc" / "new", "user.overlay.overlay.deep", b"2")
    os.link(upper / "etc" / "new", upper / "again")
    (upper / "etc" / "hosts").touch()
    (upper / "dev").mkdir()
    (upper / "old").mkdir()
    os.setxattr(upper / "old", "user.overlay.opaque", b"y")
    (upper / "old" / "a").write_bytes(b"A")
    (upper / "was-dir").write_bytes(b"file now")
    (upper / "was-file").mkdir()
    (upper / "was-file" / "inner").symlink_to("/etc/passwd")
    os.mkfifo(upper / "pipe")
    (upper / "untouched").mkdir(mode=0o644)
    os.setxattr(upper / "untouched", "user.overlay.rootless.owner", b"0:0:40644")
    os.utime(upper / "untouched", (0, 0))
    (upper / "owned").touch()
    (upper / "owned").chmod(0o640)
    os.setxattr(upper / "owned", "user.overlay.rootless.owner", b"5:6:106755")  # its mode was changed since
    return upper


POINTS = {b"dev", b"etc/hosts"}


def made(function: object, *arguments: object) -> bytes:
    reading, writing = os.pipe()
    out = os.memfd_create("out")
    os.close(reading)
    os.close(writing)
    function(*arguments[:2], out, *arguments[2:])  # type: ignore[operator]
    return os.pread(out, os.fstat(out).st_size, 0)


def test_changes(upper: Path, base: Tree) -> None:
    assert upper_changes(upper, base, POINTS) == [
        (1, b"/again"),
        (0, b"/etc"),
        (2, b"/etc/gone"),
        (1, b"/etc/new"),
        (0, b"/old"),
        (0, b"/old/a"),
        (2, b"/old/b"),
        (1, b"/owned"),
        (1, b"/pipe"),
        (0, b"/was-dir"),
        (0, b"/was-file"),
        (1, b"/was-file/inner"),
    ]
    assert (1, b"/dev") in upper_changes(upper, base)
    (upper / "untouched").chmod(0o700)
    assert (0, b"/untouched") in upper_changes(upper, base, POINTS)


def test_a_layer_of_the_changes_makes_the_same_tree_as_the_whole(tmp_path: Path, upper: Path, base: Tree) -> None:
    layer = made(write_upper, upper, base, POINTS)
    whole = made(write_merged, upper, base, POINTS)
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        members = {member.name: member for member in tar}
    assert {"etc/.wh.gone", "old/.wh..wh..opq", "again", "was-dir", "was-file/inner"} <= set(members)
    assert not {"dev", "etc/hosts", "etc/gone", "etc/kept", "untouched"} & set(members)
    assert members["again"].pax_headers == {"SCHILY.xattr.user.mine": "1", "SCHILY.xattr.user.overlay.deep": "2"}
    assert members["etc/new"].linkname == "again"
    assert (members["owned"].uid, members["owned"].gid, members["owned"].mode) == (5, 6, 0o640)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert tree_of(tmp_path / "a", BASE, layer) == tree_of(tmp_path / "b", whole)
    seen = tree_of(_directory(tmp_path / "c"), whole)
    assert seen["etc/new"] == b"new" * 200_000
    assert seen["hard"] == b"kept"
    assert "old/b" not in seen


def _directory(path: Path) -> Path:
    path.mkdir()
    return path


def test_nothing_written_is_no_change(tmp_path: Path, base: Tree) -> None:
    upper = _directory(tmp_path / "upper")
    assert upper_changes(upper, base) == []
    assert made(write_upper, upper, base) == END_OF_ARCHIVE
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert tree_of(tmp_path / "a", made(write_merged, upper, base)) == tree_of(tmp_path / "b", BASE)


def test_links_in_an_upper_directory_lead_nowhere(tmp_path: Path, base: Tree) -> None:
    secret = _directory(tmp_path / "secret")
    (secret / "key").write_text("secret")
    upper = _directory(tmp_path / "upper")
    (upper / "etc").symlink_to(secret)
    layer = made(write_upper, upper, base)
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert [(m.name, m.linkname) for m in tar] == [("etc", str(secret))]
        assert tar.getmembers()[0].type == S


def test_a_file_that_becomes_shorter_is_filled_up(tmp_path: Path) -> None:
    from fuse_overlay import TarWriter

    (tmp_path / "f").write_bytes(b"x" * 300_000)
    with open(tmp_path / "f", "rb") as file, open(tmp_path / "out", "wb") as out:
        writer = TarWriter(out.fileno())
        for size in (400_000, 200_000, 300_001):
            writer.add(Entry(b"%d" % size, stat.S_IFREG | 0o644, size=size), file.fileno())
        writer.end()
    with tarfile.open(tmp_path / "out") as tar:
        assert [member.size for member in tar] == [400_000, 200_000, 300_001]
