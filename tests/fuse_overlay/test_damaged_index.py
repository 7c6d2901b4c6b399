"""Indexes that a disk has changed: an error for whoever reads them, and never a listing without an end, an empty
directory or a traceback. The header's checksum does not cover what is changed here."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuse_overlay import (
    LayerError,
    UnionOptions,
    merge_tree,
    open_tree,
    serve_union,
    upper_changes,
    write_merged,
    write_upper,
)
from fuse_overlay.device import Device
from fuse_overlay.image_server import ImageServer
from fuse_overlay.layers.index import DIRENT, ROW, WHITEOUT, Index, Row
from fuse_overlay.layers.lazy import contents_in_common
from fuse_overlay.lower import TreeLower
from fuse_overlay.wire import structs as w
from tests.fuse_overlay.mounting import Serve, serving, with_mount
from tests.fuse_overlay.test_layers import D, F, S, archive, write_layer

NAMES = [b"file%04d" % number for number in range(400)]
PAGE = 4096
Damage = Callable[["Bytes"], None]


class Bytes:
    """An index as bytes to change, and where things lie in it. The directory d of NAMES is row `row`."""

    def __init__(self, layer: Path) -> None:
        self._path = layer / "index"
        self.bytes = bytearray(self._path.read_bytes())
        opened = Index(self._path)
        (self.row,) = (number for number in range(opened.rows) if opened.row(number).dirents == len(NAMES))
        self.first = opened.row(self.row).first_dirent
        self.dirents = opened.dirents
        self.rows_at, self.dirents_at = opened._rows_at, opened._dirents_at
        self._places = list(opened._places)
        self._listing_at = opened._listing_at
        opened.close()

    def record(self, number: int) -> int:
        """Where the fuse_dirent of d's name is."""
        return self._listing_at + self._places[self.first + number] * 8 + w.ENTRY.size + w.ATTR.size

    def place(self, number: int) -> int:
        """Where d's dirent is; number 400 is what follows."""
        return self.dirents_at + (self.first + number) * DIRENT.size

    def change(self, number: int, **fields: int) -> None:
        at = self.rows_at + number * ROW.size
        row = Row._make(ROW.unpack_from(self.bytes, at))
        ROW.pack_into(self.bytes, at, *row._replace(**fields))

    def row_of(self, name: bytes) -> int:
        opened = Index(self._path)
        try:
            found = opened.lookup(opened.row(0), name)
            assert found is not None
            return found
        finally:
            opened.close()

    def rename(self, number: int, name: bytes) -> None:
        at = self.record(number) + w.DIRENT.size
        self.bytes[at : at + len(name)] = name

    def save(self) -> None:
        self._path.unlink()
        self._path.write_bytes(self.bytes)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layer = tmp_path_factory.mktemp("good") / "layer"
    members = [("d/" + name.decode(), F, b"", "") for name in NAMES]
    write_layer(layer, archive(("a/b/c", F, b"content", ""), *members, ("e", F, b"x", ""), ("l", S, b"", "e")))
    return layer


@pytest.fixture
def layer(good: Path, tmp_path: Path) -> Path:
    return copied(good, tmp_path)


def copied(good: Path, top: Path) -> Path:
    layer = top / "copy"
    layer.mkdir()
    for name in ("layer.tar", "index"):
        (layer / name).write_bytes((good / name).read_bytes())
    return layer


def damaged(layer: Path, damage: Damage) -> None:
    found = Bytes(layer)
    damage(found)
    found.save()


@contextlib.contextmanager
def eio_allowed() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


# -------------------------------------------------------------------------------------------------------- listings
class Asked(Device):
    """A device that keeps the last answer."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.last = b""

    def write_one(self, answer: bytes | memoryview) -> None:
        self.last = bytes(answer)


class Kernel:
    """Reads a directory as fs/fuse/readdir.c does; `taken` is how many names the asker's buffer holds."""

    def __init__(self, layer: Path) -> None:
        self.device = Asked()
        self._tree = open_tree(layer / "index", [layer])
        self._server = ImageServer(self.device, self._tree, 1)

    def close(self) -> None:
        del self._server
        self._tree.close()

    def page(self, node: int, offset: int) -> list[tuple[bytes, int]]:
        """(name, cookie). Raises OSError."""
        body = w.READ_IN.pack(0, offset, PAGE) + bytes(20)
        request = w.IN_HEADER.pack(w.IN_HEADER.size + len(body), w.READDIRPLUS, 1, node, 0, 0, 0, 0, 0) + body
        self.device.answer(self._server.handlers, bytearray(request), len(request))
        answer = self.device.last
        _, number, _ = w.OUT_HEADER.unpack_from(answer)
        if number or len(answer) > w.OUT_HEADER.size + PAGE:
            raise OSError(-number or errno.EIO, "refused")
        return list(self._records(answer[w.OUT_HEADER.size :]))

    def _records(self, page: bytes) -> Iterator[tuple[bytes, int]]:
        fixed = w.ENTRY.size + w.ATTR.size + w.DIRENT.size
        while len(page) >= fixed:
            _, cookie, length, _ = w.DIRENT.unpack_from(page, fixed - w.DIRENT.size)
            name = page[fixed : fixed + length]
            if not 0 < length <= 1024 or b"/" in name:
                raise OSError(errno.EIO, "a bad name")
            if w.pad8(fixed + length) > len(page):
                return
            yield name, cookie
            page = page[w.pad8(fixed + length) :]

    def names(self, node: int, taken: int) -> list[bytes]:
        """Raises OSError, AssertionError where there is no end."""
        found: list[bytes] = []
        offset = 0
        for _ in range(2 * len(NAMES)):
            left = taken
            while left and (page := self.page(node, offset)[:left]):
                found += [name for name, _ in page]
                offset, left = page[-1][1], left - len(page)
            if left == taken:
                return found
            if len(found) > 3 * len(NAMES):
                break
        raise AssertionError("there is no end to it")


ORDER = ["extent", "places", "cookies"]  # what says which names there are, and in which order


def places_of(what: str, found: Bytes) -> list[int]:
    """The bytes of it that are d's."""
    if what == "extent":
        at = found.rows_at + found.row * ROW.size + struct.calcsize("<IIIIQqIIQIIII")
        return list(range(at, at + 8))
    if what == "places":
        return [found.place(number) + byte for number in range(len(NAMES) + 1) for byte in range(4)]
    span = range(8, 16) if what == "cookies" else range(16, 20)
    return [found.record(number) + byte for number in range(len(NAMES)) for byte in span]


@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    what=st.sampled_from([*ORDER, "lengths"]),
    bit=st.integers(0, 7),
    taken=st.sampled_from([1000, 100, 64, 25, 16, 7, 1]),
)
def test_a_flipped_bit_never_makes_a_listing_without_an_end_or_a_wrong_one(
    good: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, what: str, bit: int, taken: int
) -> None:
    layer = copied(good, tmp_path_factory.mktemp("flipped"))
    found = Bytes(layer)
    found.bytes[data.draw(st.sampled_from(places_of(what, found)))] ^= 1 << bit
    found.save()
    kernel = Kernel(layer)
    with eio_allowed():
        names = kernel.names(found.row + 1, taken)
        if (
            what in ORDER and taken == 1000
        ):  # else a damaged cookie may be the last that fits: it leads forward, never back
            assert names == NAMES
    kernel.close()


@settings(max_examples=30, deadline=None)
@example(number=399, cookie=144, taken=1000)  # the last, and back
@example(number=255, cookie=0, taken=256)
@example(number=299, cookie=199, taken=100)  # the asker's buffer ends there again and again
@example(number=299, cookie=200, taken=100)
@example(number=199, cookie=1 << 40, taken=100)
@given(number=st.integers(0, 399), cookie=st.integers(0, 1000), taken=st.sampled_from([1, 10, 100, 1000]))
def test_whichever_cookie_leads_elsewhere_there_is_an_end(
    good: Path, tmp_path_factory: pytest.TempPathFactory, number: int, cookie: int, taken: int
) -> None:
    layer = copied(good, tmp_path_factory.mktemp("cookie"))
    damaged(layer, lambda found: struct.pack_into("<Q", found.bytes, found.record(number) + 8, cookie))
    kernel = Kernel(layer)
    with eio_allowed():
        kernel.names(Bytes(layer).row + 1, taken)
    kernel.close()


def test_two_that_read_a_sound_directory_both_have_all_of_it(good: Path) -> None:
    kernel, node = Kernel(good), Bytes(good).row + 1
    readers: list[list[bytes]] = [[], [], []]
    step = 0
    while any(len(names) < len(NAMES) for names in readers):
        for names, taken in zip(readers, (3, 10, 1000), strict=True):
            names += [name for name, _ in kernel.page(node, len(names))[:taken]]
            assert kernel.page(1, 0)
        step += 1
    assert readers == [NAMES] * 3
    assert kernel.names(node, 1000) == NAMES
    kernel.close()


def cookie_back(found: Bytes) -> None:
    struct.pack_into("<Q", found.bytes, found.record(399) + 8, 144)


def one_place(found: Bytes) -> None:
    """All names from the 16th on are said to be the first."""
    (first,) = struct.unpack_from("<I", found.bytes, found.place(0))
    for number in range(16, 400):
        struct.pack_into("<I", found.bytes, found.place(number), first)


def slash(found: Bytes) -> None:
    found.rename(7, b"fi/e")


OUTSIDE: list[Damage] = [
    lambda found: found.change(found.row, first_dirent=found.dirents + 5),
    lambda found: found.change(found.row, first_dirent=found.first + 1),
    lambda found: found.change(found.row, dirents=found.dirents),
    lambda found: found.change(found.row, dirents=0),
    lambda found: found.change(found.row, dirents=0xFFFFFFFF),
]


def of_union(layer: Path, top: Path) -> Serve:
    tree = open_tree(layer / "index", [layer])
    for name in ("upper", "work"):
        (top / name).mkdir()

    def serve(fd: int, resume: bool) -> None:
        serve_union(fd, [tree], str(top / "upper"), str(top / "work"), UnionOptions(), resume=resume)

    return serve


def of_image(layer: Path, _top: Path) -> Serve:
    return serving(open_tree(layer / "index", [layer]))


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("server", "damage"),
    [
        *((of_image, damage) for damage in (*OUTSIDE, cookie_back, one_place, slash)),
        *((of_union, damage) for damage in (*OUTSIDE, one_place, slash)),
    ],
)
def test_a_damaged_directory_is_an_error_to_programs(
    layer: Path, tmp_path: Path, server: Callable[[Path, Path], Serve], damage: Damage
) -> None:
    damaged(layer, damage)
    target = tmp_path / "target"
    target.mkdir()

    def look(_fd: int, _pid: int) -> None:
        with pytest.raises(OSError, match="Input/output error"), os.scandir(target / "d") as names:
            print(len(list(itertools.islice(names, 1000))), "names")
        assert (target / "a/b/c").read_bytes() == b"content"

    with_mount(server(layer, tmp_path), target, look, read_only=server is of_image)


# ---------------------------------------------------------------------------------------------------- read as a whole
WHOLE: list[Damage] = [
    *OUTSIDE,
    slash,
    lambda found: found.rename(7, b"fi\0e"),
    lambda found: found.rename(7, NAMES[6]),
    lambda found: found.change(0, mode=0o100644),
    lambda found: found.change(found.row, mode=0o100644),
    lambda found: found.change(found.row_of(b"e"), mode=0o140644),
    lambda found: found.change(found.row_of(b"e"), mode=0),
    lambda found: found.change(found.row_of(b"e"), layer=1),
    lambda found: found.change(found.row_of(b"e"), size=1 << 60),
    lambda found: found.change(found.row_of(b"e"), flags=2, link_at=0, link_bytes=1),
    lambda found: found.change(found.row_of(b"l"), link_at=1 << 20),
    lambda found: struct.pack_into("<I", found.bytes, found.place(7) + 4, 0xFFFFFF),
    lambda found: struct.pack_into("<I", found.bytes, found.place(7) + 4, WHITEOUT),
    lambda found: struct.pack_into("<I", found.bytes, found.place(7) + 4, 0),  # a directory that holds itself
]


@pytest.fixture
def out() -> Iterator[int]:
    fd = os.open(os.devnull, os.O_WRONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("damage", WHOLE)
def test_whatever_reads_all_of_it_says_that_it_is_damaged(
    layer: Path, good: Path, tmp_path: Path, out: int, damage: Damage
) -> None:
    damaged(layer, damage)
    upper = tmp_path / "upper"
    upper.mkdir()
    with pytest.raises(LayerError, match="layer copy: the index is corrupt"):
        merge_tree([layer, good], tmp_path / "tree")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "upper"]
    tree = open_tree(layer / "index", [layer])
    with pytest.raises(LayerError, match="the index is corrupt"):
        write_merged(upper, tree, out)
    with pytest.raises(LayerError, match="the index is corrupt"):
        list(contents_in_common(good, layer))


def test_what_compares_with_it_says_so_too(layer: Path, tmp_path: Path, out: int) -> None:
    damaged(layer, OUTSIDE[0])
    upper = tmp_path / "upper"
    (upper / "d").mkdir(parents=True)
    (upper / "d/file0007").write_bytes(b"new")
    tree = open_tree(layer / "index", [layer])
    with pytest.raises(LayerError, match="the index is corrupt"):
        upper_changes(upper, tree)
    with pytest.raises(LayerError, match="the index is corrupt"):
        write_upper(upper, tree, out)


# ------------------------------------------------------------------------------------------------------------ upwards
@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layer = tmp_path_factory.mktemp("deep") / "layer"
    write_layer(layer, archive(*((name, D, b"", "") for name in ("a/b/c/d", "a/x", "e/f/g", "e/f/h"))))
    return layer


@settings(max_examples=300, deadline=None)
@given(
    number=st.integers(0, 9),
    field=st.sampled_from(["first_dirent", "dirents", "parent"]),
    value=st.integers(0, 12) | st.just(0xFFFFFFFF),
)
def test_the_way_to_the_root_ends_or_is_an_error(
    deep: Path, tmp_path_factory: pytest.TempPathFactory, number: int, field: str, value: int
) -> None:
    layer = copied(deep, tmp_path_factory.mktemp("climb"))
    data = bytearray((layer / "index").read_bytes())
    opened = Index(layer / "index")
    at = opened._rows_at + number % opened.rows * ROW.size
    ROW.pack_into(data, at, *Row._make(ROW.unpack_from(data, at))._replace(**{field: value}))
    (layer / "index").write_bytes(data)
    places = opened.dirents + 1
    opened.close()
    tree = open_tree(layer / "index", [layer])
    lower = TreeLower(tree, 0, 1, 1)
    for place in range(1, places):
        with eio_allowed():
            for _ in range(places):
                place, name = lower.parent(place)
                assert name
                if not place:
                    break
            assert not place, "in a circle"
    tree.close()
