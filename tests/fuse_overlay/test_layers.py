"""Layers: tar -> index -> tree, by tables of good and hostile archives."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_overlay import LayerError, LayerWriter, index_layer, merge_tree, open_tree, read_layer, rebuild_tree
from fuse_overlay.device import Device
from fuse_overlay.image_server import ImageServer
from fuse_overlay.layers import indexing
from fuse_overlay.layers.index import Index, Node
from fuse_overlay.lower import TreeLower
from fuse_overlay.wire import structs as w

Member = tuple[str, bytes, bytes, str]
F, D, S, H = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def archive(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as tar:
        for name, kind, data, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(data), link
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


def write_layer(directory: Path, data: bytes, piece: int = 1 << 20) -> None:
    directory.mkdir()
    writer = LayerWriter(directory)
    try:
        for start in range(0, len(data), piece):
            writer.write(data[start : start + piece])
        writer.finish()
    finally:
        writer.abort()


@pytest.mark.parametrize("piece", [1000, 1 << 16, (1 << 16) + 1, 1 << 20])
def test_the_diff_id_is_that_of_all_pieces_large_and_small(tmp_path: Path, piece: int) -> None:
    data = archive(("a", F, os.urandom(700_000), ""), ("b", F, b"b", ""))
    writer = LayerWriter(tmp_path)
    writer.write(data[:10])
    for start in range(10, len(data), piece):
        part = data[start : start + piece]
        writer.write(memoryview(bytearray(part)) if start // piece % 3 == 2 else part)
        assert writer.diff_id == f"sha256:{hashlib.sha256(data[: start + piece]).hexdigest()}"
    assert writer.finish().diff_id == f"sha256:{hashlib.sha256(data).hexdigest()}"
    end = time.monotonic() + 10
    while hashing() and time.monotonic() < end:
        time.sleep(0.01)
    assert not hashing()


def hashing() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("hash")]


def tree_of(tmp_path: Path, *archives: bytes) -> dict[str, bytes]:
    """The merged tree as path -> content (directories end in a slash, links are shown by an arrow)."""
    directories = []
    for number, data in enumerate(archives):
        directories.append(tmp_path / str(number))
        write_layer(directories[-1], data)
    merge_tree(directories, tmp_path / "tree")
    tree = open_tree(tmp_path / "tree", directories)
    found: dict[str, bytes] = {}

    def walk(number: int, prefix: str) -> None:
        for name, child in tree.index.entries(tree.index.row(number)):
            row = tree.index.row(child)
            path = prefix + name.decode()
            if row.mode >> 12 == 4:
                found[path + "/"] = b""
                walk(child, path + "/")
            elif row.mode >> 12 == 10:
                found[path] = b"-> " + tree.index.link(row)
            else:
                found[path] = tree.read_file(path.encode(), 1 << 20) or b""

    walk(0, "")
    tree.close()
    return found


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("piece", [1, 511, 512, 1000, 1 << 20])
def test_every_dialect_in_pieces_of_any_size(tmp_path: Path, form: int, piece: int) -> None:
    long = "d" * 90 + "/" + "f" * 90
    data = archive(("a", F, b"one", ""), (long, F, b"two", ""), ("l", S, b"", "a"), form=form)
    write_layer(tmp_path / "layer", data, piece)
    merge_tree([tmp_path / "layer"], tmp_path / "tree")
    tree = open_tree(tmp_path / "tree", [tmp_path / "layer"])
    assert tree.read_file(b"a", 100) == b"one"
    assert tree.read_file(long.encode(), 100) == b"two"


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        ([[("a", F, b"1", "")], [("a", F, b"2", "")]], {"a": b"2"}),
        ([[("a", F, b"1", ""), ("b", F, b"", "")], [(".wh.a", F, b"", "")]], {"b": b""}),
        ([[("d/a", F, b"1", "")], [("d/.wh..wh..opq", F, b"", ""), ("d/b", F, b"2", "")]], {"d/": b"", "d/b": b"2"}),
        ([[("d/a", F, b"1", "")], [("d", S, b"", "x")]], {"d": b"-> x"}),
        ([[("d", F, b"1", "")], [("d/a", F, b"2", "")]], {"d/": b"", "d/a": b"2"}),
        ([[("a", F, b"1", "")], [("b", H, b"", "a")]], {"a": b"1", "b": b"1"}),
        ([[("d/a", F, b"1", "")], [(".wh.d", F, b"", ""), ("d/b", F, b"", "")]], {"d/": b"", "d/b": b""}),
        ([[("a", F, b"1", ""), ("a", F, b"2", "")]], {"a": b"2"}),
        ([[("l", S, b"", "/etc"), ("l/x", F, b"in", "")]], {"l/": b"", "l/x": b"in"}),
        ([[("/abs/./a", F, b"1", "")]], {"abs/": b"", "abs/a": b"1"}),
    ],
)
def test_layers_merge(tmp_path: Path, layers: list[list[Member]], wanted: dict[str, bytes]) -> None:
    assert tree_of(tmp_path, *(archive(*members) for members in layers)) == wanted


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (archive(("../a", F, b"", "")), "leads out"),
        (archive(("a/../../b", F, b"", "")), "leads out"),
        (archive(("a", H, b"", "../b")), "leads out"),
        (b"no tar" * 1000, "not a tar"),
        (b"", "empty"),
        (archive(("a", F, b"x" * 2000, ""))[:1000], "truncated"),
        (archive(("a", F, b"x" * 2000, ""))[:100], "truncated"),
        (archive(("n" * 300, F, b"", "")), "more than 255"),
    ],
)
def test_a_bad_archive_is_refused(tmp_path: Path, data: bytes, complaint: str) -> None:
    with pytest.raises(LayerError, match=complaint):
        write_layer(tmp_path / "layer", data)


def test_a_hard_link_to_nowhere_is_refused(tmp_path: Path) -> None:
    write_layer(tmp_path / "layer", archive(("a", H, b"", "nowhere")))
    with pytest.raises(LayerError, match="in no layer"):
        merge_tree([tmp_path / "layer"], tmp_path / "tree")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layer"]


@given(
    st.sets(st.binary(min_size=1, max_size=255).filter(lambda name: not set(name) & {0, 47}), min_size=1, max_size=60),
    st.integers(408, 5000),
)
def test_a_directory_is_listed_in_pieces_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, names: set[bytes], limit: int
) -> None:
    root = Node.directory()
    root.children = {name: Node(0o100644, uid=number) for number, name in enumerate(names)}
    path = tmp_path_factory.mktemp("index") / "index"
    indexing.write(path, root, [], merged=True)
    opened = Index(path)
    assert opened.row(0).greatest_id == len(names) - 1
    found: list[bytes] = []
    while len(found) < len(names):
        records, end = opened.listing(0, len(names), len(found), limit)
        piece = bytes(records)
        assert 0 < len(piece) <= limit
        while piece:
            ino, position, length, kind = w.DIRENT.unpack_from(piece, 128)
            name = piece[152 : 152 + length]
            row = opened.row(ino - 1)
            assert (position, kind) == (len(found) + 1, 8)
            assert w.ENTRY.unpack_from(piece)[0] == ino
            assert w.ATTR.unpack_from(piece, 40)[11] == row.uid
            assert opened.lookup(opened.row(0), name) == ino - 1
            found.append(name)
            piece = piece[w.pad8(152 + length) :]
        assert end == len(found)
    assert found == sorted(names)
    del records
    opened.close()


@given(st.data())
def test_damage_anywhere_is_an_error_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    good = bytearray(archive(("a", F, b"one", ""), ("d/b", F, b"x" * 600, ""), ("l", S, b"", "t")))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        write_layer(tmp_path_factory.mktemp("damaged") / "layer", bytes(good))
    except LayerError:
        pass


def test_an_index_is_known_to_be_foreign_or_broken(tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    write_layer(layer, archive(("a", F, b"one", "")))
    good = (layer / "index").read_bytes()
    for bad in (b"", good[:20], good[:-1], b"x" + good[1:], good[:9] + b"\xff" + good[10:]):
        (layer / "index").write_bytes(bad)
        with pytest.raises(LayerError):
            read_layer(layer)
    (layer / "index").write_bytes(good)
    with open(layer / "layer.tar", "ab") as file:
        file.write(b"more")
    with pytest.raises(LayerError, match="not that of its tar"):
        read_layer(layer)
    index_layer(layer)
    assert read_layer(layer).entries == 2
    assert Index(layer / "index").rows == 2


def test_a_tree_is_made_anew_from_its_tars(tmp_path: Path) -> None:
    layers = [tmp_path / "one", tmp_path / "two"]
    write_layer(layers[0], archive(("a", F, b"one", ""), ("b", F, b"gone", "")))
    write_layer(layers[1], archive((".wh.b", F, b"", ""), ("c", F, b"three", "")))
    ids = [read_layer(layer).diff_id for layer in layers]
    tree = tmp_path / "tree"
    merge_tree(layers, tree)
    good = tree.read_bytes()
    for damage in (good[:100], good[:-1], b"", (layers[0] / "index").read_bytes()):
        tree.write_bytes(damage)
        (layers[0] / "index").write_bytes(damage[:50])
        with pytest.raises(LayerError):
            open_tree(tree, layers, ids)
        rebuild_tree(tree, layers, ids)
        opened = open_tree(tree, layers, ids)
        assert [opened.read_file(name, 10) for name in (b"a", b"b", b"c")] == [b"one", None, b"three"]
        opened.close()
    with pytest.raises(LayerError, match="other layers"):
        open_tree(tree, layers, ids[::-1])
    changed = bytearray((layers[0] / "layer.tar").read_bytes())
    changed[512] ^= 1
    (layers[0] / "layer.tar").write_bytes(changed)
    (layers[0] / "index").unlink()
    with pytest.raises(LayerError, match="is damaged"):
        rebuild_tree(tree, layers, ids)


def test_what_an_older_version_wrote_is_made_anew(tmp_path: Path) -> None:
    layers = [tmp_path / "one", tmp_path / "two"]
    write_layer(layers[0], archive(("a", F, b"one", "")))
    write_layer(layers[1], archive((".wh..wh..opq", F, b"", "")))
    tree = tmp_path / "tree"
    merge_tree(layers, tree)
    for path in (tree, layers[0] / "index", layers[1] / "index"):
        data = path.read_bytes()
        older = data[:8] + (2).to_bytes(4, "little") + data[12:]
        path.write_bytes(older)
    with pytest.raises(LayerError, match="not an index of this version"):
        open_tree(tree, layers)
    tree.unlink()
    merge_tree(layers, tree)  # as a pull does that has some of its layers already
    assert open_tree(tree, layers).index.rows == 1
    assert [read_layer(layer).entries for layer in layers] == [2, 1]


@pytest.fixture(scope="module", autouse=True)
def mistakes_of_ours_are_not_forgiven() -> Iterator[None]:
    def fail() -> None:
        raise AssertionError("a handler raised what it should not")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("traceback.print_exc", fail)
        yield


@given(st.data())
def test_a_damaged_index_is_an_error_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    layer = tmp_path_factory.mktemp("damaged") / "layer"
    write_layer(layer, archive(("a", F, b"one", ""), ("d/b", F, b"x" * 600, ""), ("l", S, b"", "t")))
    damaged = bytearray((layer / "index").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    (layer / "index").write_bytes(damaged)
    try:
        tree = open_tree(layer / "index", [layer])
    except LayerError:
        return
    server = ImageServer(Device(os.open("/dev/null", os.O_RDWR)), tree, 1)
    fuzz_rows = [*range(tree.index.rows), tree.index.rows, 0xFFFFFFFF]
    for number in fuzz_rows:
        for opcode, body in REQUESTS:
            request = w.IN_HEADER.pack(w.IN_HEADER.size + len(body), opcode, 7, number + 1, 0, 0, 0, 0, 0) + body
            server.device.answer(server.handlers, bytearray(request), len(request))
    os.close(server.device.fd)


def test_a_listing_with_a_nul_in_a_name_is_an_error(tmp_path: Path) -> None:
    """A zeroed page of the index: programs would see a name "", and a walk that joins it goes round for ever."""
    layer = tmp_path / "layer"
    write_layer(layer, archive(("one-name", F, b"one", ""), ("other", F, b"", "")))
    (layer / "index").write_bytes((layer / "index").read_bytes().replace(b"one-name", bytes(8)))
    lower = TreeLower(open_tree(layer / "index", [layer]), 0, 1, 1)
    for listing in (lower.entries(0), lower.entries_from(0, 0)):
        with pytest.raises(OSError, match="corrupt"):
            list(listing)


REQUESTS = [
    (w.LOOKUP, b"a\0"),
    (w.GETATTR, bytes(16)),
    (w.READLINK, b""),
    (w.READ, w.READ_IN.pack(0, 0, 4096) + bytes(20)),
    (w.READ, w.READ_IN.pack(0, 1 << 63, 1 << 31) + bytes(20)),
    (w.READDIR, w.READ_IN.pack(0, 0, 4096) + bytes(20)),
    (w.READDIRPLUS, w.READ_IN.pack(0, 0, 4096) + bytes(20)),
    (w.READDIRPLUS, w.READ_IN.pack(0, 1 << 40, 1 << 31) + bytes(20)),
    (w.LISTXATTR, w.XATTR_IN.pack(4096, 0)),
]


@given(opcode=st.integers(0, 60), nodeid=st.integers(0, 2**64 - 1) | st.integers(0, 6), body=st.binary(max_size=80))
@settings(max_examples=400)
def test_requests_that_lie_get_an_errno(good_server: ImageServer, opcode: int, nodeid: int, body: bytes) -> None:
    request = w.IN_HEADER.pack(w.IN_HEADER.size + len(body), opcode, 7, nodeid, 0, 0, 0, 0, 0) + body
    good_server.device.answer(good_server.handlers, bytearray(request), len(request))
    cut = request[: len(request) // 2]
    good_server.device.answer(good_server.handlers, bytearray(cut), len(cut))


@pytest.fixture(scope="module")
def good_server(tmp_path_factory: pytest.TempPathFactory) -> ImageServer:
    layer = tmp_path_factory.mktemp("good") / "layer"
    write_layer(layer, archive(("a", F, b"one", ""), ("d/b", F, b"x" * 600, ""), ("l", S, b"", "t")))
    return ImageServer(Device(os.open("/dev/null", os.O_RDWR)), open_tree(layer / "index", [layer]), 1)
