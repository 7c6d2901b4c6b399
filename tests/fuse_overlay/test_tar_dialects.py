"""Archives as other programs write them: GNU tar's sparse formats, xattrs, whiteouts of overlayfs, lies."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_overlay import LayerError, Tree, merge_tree, open_tree, write_merged
from tests.fuse_overlay.test_layers import D, F, S, archive, tree_of, write_layer

Fields = dict[str, object]
C = tarfile.CHRTYPE


def made(*members: Fields, form: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of members given as TarInfo's attributes, and `data`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for fields in members:
            info = tarfile.TarInfo()
            data = fields.pop("data", b"")
            assert isinstance(data, bytes)
            info.size = len(data)
            for name, value in fields.items():
                setattr(info, name, value)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def opened(tmp_path: Path, *archives: bytes) -> Tree:
    directories = [tmp_path / str(number) for number in range(len(archives))]
    for directory, data in zip(directories, archives, strict=True):
        write_layer(directory, data)
    merge_tree(directories, tmp_path / "tree")
    return open_tree(tmp_path / "tree", directories)


def sparse_file(path: Path, pieces: Iterable[tuple[int, bytes]], size: int) -> bytes:
    with open(path, "wb") as file:
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
        file.truncate(size)
    return path.read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=pax", "--sparse-version=0.0"],
        ["--format=pax", "--sparse-version=0.1"],
        ["--format=pax", "--sparse-version=1.0"],
    ],
)
@pytest.mark.parametrize("piece", [500, 1 << 20])
def test_sparse_files_of_gnu_tar(tmp_path: Path, options: list[str], piece: int) -> None:
    source = tmp_path / "source"
    source.mkdir()
    unit = random.Random(1)
    sizes = {"none": 0, "few": 3, "header is full": 4, "one block more": 20, "many": 60}
    wanted = {}
    for name, count in sizes.items():
        pieces = [(i * 65536, unit.randbytes(4096)) for i in range(1, count + 1)]
        wanted[name] = sparse_file(source / name, pieces, 65536 * (count + 3))
    wanted["after"] = b"dense"
    (source / "after").write_bytes(b"dense")
    done = subprocess.run(
        ["tar", "-C", source, "-cSf", "-", *options, "--", *wanted], check=True, capture_output=True
    )  # fmt: skip
    assert len(done.stdout) < sum(map(len, wanted.values())) / 3  # it did store them sparse
    write_layer(tmp_path / "layer", done.stdout, piece)
    merge_tree([tmp_path / "layer"], tmp_path / "tree")
    tree = open_tree(tmp_path / "tree", [tmp_path / "layer"])
    for name, content in wanted.items():
        assert tree.read_file(name.encode(), 1 << 30) == content
        number = tree.index.lookup(tree.index.row(0), name.encode())
        assert number is not None
        row = tree.index.row(number)
        for offset in (0, 1, 65535, 65536, 70000, len(content) - 10):
            length = max(0, min(70000, len(content) - offset))
            if offset < 0 or not length:
                continue
            view = bytearray(length)
            tree.preadv(row, memoryview(view), offset)
            assert view == content[offset : offset + length]


def test_a_sparse_file_is_exported_whole(tmp_path: Path) -> None:
    source, upper = tmp_path / "source", tmp_path / "upper"
    source.mkdir()
    upper.mkdir()
    wanted = sparse_file(source / "f", [(i * 65536, b"y" * 5000) for i in range(1, 9)], 1 << 20)
    data = subprocess.run(["tar", "-C", source, "-cSf", "-", "f"], check=True, capture_output=True).stdout
    with open(tmp_path / "whole.tar", "wb") as out:
        write_merged(upper, opened(tmp_path, data), out.fileno())
    with tarfile.open(tmp_path / "whole.tar") as whole:
        content = whole.extractfile("f")
        assert content is not None
        assert content.read() == wanted


@pytest.mark.parametrize(
    ("records", "complaint"),
    [
        ({"GNU.sparse.map": "0,10,5,10", "GNU.sparse.size": "100"}, "lies"),
        ({"GNU.sparse.map": "0,10,90,20", "GNU.sparse.size": "100"}, "lies"),
        ({"GNU.sparse.map": "0,3000", "GNU.sparse.size": "9000"}, "stores 2000 bytes"),
        ({"GNU.sparse.map": "0", "GNU.sparse.size": "100"}, "bad map"),
        ({"GNU.sparse.map": "0,x", "GNU.sparse.size": "100"}, "bad PAX number"),
        ({"GNU.sparse.map": "0,1"}, "bad PAX number"),
        ({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "10"}, "number"),
        ({"GNU.sparse.realsize": ""}, "bad PAX number"),
        ({"size": "-1"}, "bad PAX number"),
        ({"size": "99999999999999999999"}, "member of"),
    ],
)
def test_sizes_and_maps_that_lie(tmp_path: Path, records: dict[str, str], complaint: str) -> None:
    with pytest.raises(LayerError, match=complaint):
        write_layer(tmp_path / "layer", made({"name": "a", "data": b"x" * 2000, "pax_headers": records}))


@given(st.data())
@settings(max_examples=60)
def test_damage_to_a_sparse_archive_is_an_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    source = tmp_path_factory.mktemp("sparse")
    sparse_file(source / "f", [(i * 65536, b"y" * 4096) for i in range(1, 9)], 1 << 20)
    options = data.draw(st.sampled_from([["--format=gnu"], ["--format=pax"]]))
    whole = subprocess.run(["tar", "-C", source, "-cSf", "-", *options, "f"], check=True, capture_output=True).stdout
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, 3000))] = data.draw(st.integers(0, 255))
    try:
        write_layer(source / "layer", bytes(damaged))
        merge_tree([source / "layer"], source / "tree")
    except LayerError:
        return
    tree = open_tree(source / "tree", [source / "layer"])
    for _, number in tree.index.entries(tree.index.row(0)):
        row = tree.index.row(number)
        if row.mode >> 12 == 8 and row.size < 1 << 24:
            tree.preadv(row, memoryview(bytearray(row.size)), 0)


def test_numbers_in_base_256(tmp_path: Path) -> None:
    tree = opened(
        tmp_path,
        made({"name": "a", "uid": 3_000_000, "gid": 4_000_000_000, "mtime": -5}, form=tarfile.GNU_FORMAT),
    )
    number = tree.index.lookup(tree.index.row(0), b"a")
    assert number is not None
    row = tree.index.row(number)
    assert (row.uid, row.gid, row.mtime_ns) == (3_000_000, 4_000_000_000, -5 * 10**9)


@pytest.mark.parametrize(("seconds", "wanted"), [(10**12, 2**63 - 1), (-(10**12), -(2**63) + 1)])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_time_that_no_index_can_hold_is_the_nearest(tmp_path: Path, form: int, seconds: int, wanted: int) -> None:
    tree = opened(tmp_path, made({"name": "a", "mtime": seconds}, form=form))
    number = tree.index.lookup(tree.index.row(0), b"a")
    assert number is not None
    assert tree.index.row(number).mtime_ns == wanted


def test_a_symbolic_link_with_a_nul_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LayerError, match="NUL byte in its text"):
        opened(tmp_path, made({"name": "a", "type": S, "linkname": "x", "pax_headers": {"linkpath": "y\0z"}}))


def test_xattrs_of_gnu_tar_and_of_libarchive_and_none_of_an_overlays_own(tmp_path: Path) -> None:
    records = {
        "SCHILY.xattr.user.a": "one=1\n2",
        "LIBARCHIVE.xattr.user.b%20c": "dHdv",
        "LIBARCHIVE.xattr.user.a": "bm90IHRoaXM",
        "SCHILY.xattr.user.overlay.redirect": "/etc/shadow",
        "SCHILY.xattr.trusted.overlay.metacopy": "",
        "SCHILY.xattr.user.fuseoverlayfs.origin": "x",
        "SCHILY.xattr.user.fuseoverlayfs.opaque": "y",
    }
    tree = opened(tmp_path, made({"name": "f", "pax_headers": dict(records)}))
    number = tree.index.lookup(tree.index.row(0), b"f")
    assert number is not None
    assert tree.index.xattrs(tree.index.row(number)) == {b"user.a": b"one=1\n2", b"user.b c": b"two"}


ALL_BELOW = {"d/", "d/a", "d/b", "f"}
LOWER = archive(("d/a", F, b"1", ""), ("d/b", F, b"2", ""), ("f", F, b"3", ""))


@pytest.mark.parametrize(
    ("upper", "wanted"),
    [
        ([{"name": "d/.wh.a"}], {"d/", "d/b", "f"}),
        ([{"name": "d/a", "type": C}], {"d/", "d/b", "f"}),
        ([{"name": "d/a", "type": C, "devmajor": 1, "devminor": 3}], {"d/", "d/a", "d/b", "f"}),
        ([{"name": "d/a", "pax_headers": {"SCHILY.xattr.user.overlay.whiteout": "y"}}], {"d/", "d/b", "f"}),
        ([{"name": "d", "type": D, "pax_headers": {"SCHILY.xattr.trusted.overlay.opaque": "y"}}], {"d/", "f"}),
        ([{"name": "d", "type": D, "pax_headers": {"SCHILY.xattr.user.overlay.opaque": "y"}}], {"d/", "f"}),
        ([{"name": "d", "type": D, "pax_headers": {"SCHILY.xattr.user.fuseoverlayfs.opaque": "y"}}], {"d/", "f"}),
        ([{"name": "d", "type": D, "pax_headers": {"SCHILY.xattr.user.fuseoverlayfs.opaque": "n"}}], ALL_BELOW),
        ([{"name": "./", "type": D, "pax_headers": {"SCHILY.xattr.user.fuseoverlayfs.opaque": "y"}}], set()),
        ([{"name": "./", "type": D, "pax_headers": {"SCHILY.xattr.user.overlay.opaque": "y"}}, {"name": "x"}], {"x"}),
        ([{"name": "d/.wh..wh..opq"}], {"d/", "f"}),
        ([{"name": "d/c"}, {"name": "d/.wh..wh..opq"}], {"d/", "d/c", "f"}),
        ([{"name": ".wh.d"}, {"name": "d/c"}], {"d/", "d/c", "f"}),
        ([{"name": "d/c"}, {"name": ".wh.d"}], {"d/", "d/c", "f"}),
        ([{"name": ".wh.f"}, {"name": "f"}], {"d/", "d/a", "d/b", "f"}),
        ([{"name": "f"}, {"name": ".wh.f"}], {"d/", "d/a", "d/b", "f"}),
        ([{"name": ".wh.d"}, {"name": "d", "type": S, "linkname": "f"}], {"d", "f"}),
        ([{"name": ".wh.nothing"}, {"name": "nodir/.wh.x"}], {"d/", "d/a", "d/b", "f", "nodir/"}),
        ([{"name": ".wh..wh.plnk"}, {"name": ".wh..wh.aufs"}], {"d/", "d/a", "d/b", "f"}),
        ([{"name": ".wh..wh.plnk/77.88"}, {"name": "d/.wh..wh.orph/x/y"}], {"d/", "d/a", "d/b", "f"}),
        ([{"name": ".wh..wh.plnk", "type": D}, {"name": ".wh..wh.plnk/.wh..wh..opq"}], {"d/", "d/a", "d/b", "f"}),
        ([{"name": "x"}, {"name": "./.wh..wh..opq"}], {"x"}),
        ([{"name": ".wh..wh..opq"}, {"name": "d/c"}], {"d/", "d/c"}),
    ],
)
def test_whiteouts_in_every_encoding(tmp_path: Path, upper: list[Fields], wanted: set[str]) -> None:
    members = [dict(fields) for fields in upper]
    assert set(tree_of(tmp_path, LOWER, made(*members))) == wanted


def test_a_root_that_is_opaque_hides_all_layers_below_and_none_above(tmp_path: Path) -> None:
    opaque = archive(("new", F, b"1", ""), (".wh..wh..opq", F, b"", ""))
    layers = [archive(("old", F, b"1", "")), LOWER, opaque, archive(("above", F, b"1", ""))]
    for count, wanted in ((3, {"new"}), (4, {"new", "above"})):
        (tmp_path / str(count)).mkdir()
        assert set(tree_of(tmp_path / str(count), *layers[:count])) == wanted


def test_names_that_are_links_to_a_file_of_aufs_stay(tmp_path: Path) -> None:
    link = {"name": "a", "type": tarfile.LNKTYPE, "linkname": ".wh..wh.plnk/7.8"}
    again = {"name": ".wh..wh.plnk/9", "type": tarfile.LNKTYPE, "linkname": "a"}
    last = {"name": "b", "type": tarfile.LNKTYPE, "linkname": ".wh..wh.plnk/9"}
    tree = opened(tmp_path, made({"name": ".wh..wh.plnk/7.8"}, link, again, last))
    names = dict(tree.index.entries(tree.index.row(0)))
    assert names.keys() == {b"a", b"b"}
    assert tree.index.row(names[b"a"]).nlink == 2


def test_a_hard_link_to_a_lower_layer_counts_its_names(tmp_path: Path) -> None:
    tree = opened(tmp_path, LOWER, made({"name": "g", "type": tarfile.LNKTYPE, "linkname": "d/a"}))
    root = tree.index.row(0)
    number = tree.index.lookup(root, b"g")
    assert number is not None
    assert tree.index.row(number).nlink == 2
    assert tree.read_file(b"g", 10) == b"1"


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ([{"name": "a" * 200 + "/" + "b" * 256}], "more than 255"),
        ([{"name": "/".join(["d"] * 20000)}], "name of"),
        ([{"name": "l", "type": S, "linkname": "x" * 5000}], "text of 5000 bytes"),
        ([{"name": "l", "type": S, "linkname": ""}], "text of 0 bytes"),
        ([{"name": "a", "pax_headers": {"path": "x\0y"}}], "NUL"),
        ([{"name": "d", "type": D}, {"name": "h", "type": tarfile.LNKTYPE, "linkname": "d"}], "to a directory"),
    ],
)
def test_hostile_names(tmp_path: Path, members: list[Fields], complaint: str) -> None:
    with pytest.raises(LayerError, match=complaint):
        write_layer(tmp_path / "layer", made(*[dict(fields) for fields in members]))


def test_links_that_point_in_circles_are_only_texts(tmp_path: Path) -> None:
    found = tree_of(tmp_path, archive(("a", S, b"", "b"), ("b", S, b"", "a"), ("a/x", F, b"in", "")))
    assert found == {"a/": b"", "a/x": b"in", "b": b"-> a"}


def test_a_directory_of_an_incremental_backup(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    os.mkdir(source / "d")
    (source / "d/f").write_bytes(b"x")
    data = subprocess.run(
        ["tar", "-C", source, "-cf", "-", f"--listed-incremental={tmp_path}/snapshot", "d"],
        check=True,
        capture_output=True,
    ).stdout
    assert tree_of(tmp_path, data) == {"d/": b"", "d/f": b"x"}
