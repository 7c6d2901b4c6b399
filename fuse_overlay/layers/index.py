"""The index of a layer or of a whole image: a file that is mapped, never parsed.

    header   magic, version, the sizes of what follows, CRC-32 of header and layer table
    layers   per layer: SHA-256 of its layer.tar (the diff id) and that file's size
    rows     one per inode, fixed size; row 0 is the root
    dirents  (record, row) sorted by name within a directory; a directory's are contiguous; one more marks the end
    listing  per dirent a record as FUSE_READDIRPLUS answers it, attributes and name: a directory is read by copying
    heap     link texts, xattrs, maps of sparse files

A layer's own index uses the same form with two additions: a dirent of row WHITEOUT hides a name of the layers below,
and a row of mode 0 is a hard link to a path (its link text) of the layers below. `merge` resolves both."""

from __future__ import annotations

import mmap
import os
import stat
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fuse_overlay.errors import LayerError
from fuse_overlay.layers.entry import NO_XATTRS, shown
from fuse_overlay.wire import structs as w

MAGIC = b"rl-index"
VERSION = 4  # also where a layer is read in another way: an index with an older one is made anew
WHITEOUT = 0xFFFFFFFF
OPAQUE = 1  # flag of a directory's row: nothing of the layers below shows through
SPARSE = 2  # flag of a file's row: the link text is the map of its stored pieces, see `segments`
MERGED = 1  # header flag: neither whiteouts nor unresolved hard links
XATTRS = 2  # header flag: some row has extended attributes

HEADER = struct.Struct("<8sIIIIIQQI")  # magic version flags layers rows dirents listing_bytes heap_bytes crc
LAYER = struct.Struct("<32sQ")
ROW = struct.Struct("<IIIIQqIIQIIIIIIIII")
_EXTENT_AT = struct.calcsize("<IIIIQqIIQIIII")  # in a ROW
_LAST_EXTENT = struct.Struct("<II8xI")  # see `Index.extent`
_EXTENT = struct.Struct(f"<II8xI{_EXTENT_AT}xI")  # and the next row's first dirent
DIRENT = struct.Struct("<IIHH")  # record's place in the listing (units of 8 bytes), row, bytes of the name, unused
PIECE = struct.Struct("<QQ")
NAME_AT = w.ENTRY.size + w.ATTR.size + w.DIRENT.size
_COOKIE_WORD = (w.ENTRY.size + w.ATTR.size) // 8 + 1  # of a record, in units of 8 bytes: struct fuse_dirent's `off`
_LENGTH_WORD = _COOKIE_WORD + 1  # `namelen` and `type`
_RECORD_BYTES = NAME_AT + 7  # and those of its name: how long it is, rounded down to 8
_TYPES = {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO}


class CorruptIndex(LayerError, IndexError):
    """What the index says leads out of it, or cannot be. To a server that was asked, this is a row it does not have."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the index is corrupt: {what}")


class Row(NamedTuple):
    """One inode. `layer` and `data_offset` say where the content lies; times in nanoseconds since 1970."""

    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    mtime_ns: int
    rdev: int
    layer: int
    data_offset: int
    link_at: int
    link_bytes: int
    xattrs_at: int
    xattrs_bytes: int
    first_dirent: int
    dirents: int
    parent: int
    flags: int
    greatest_id: int  # of the entries of a directory: the greatest uid or gid


class LayerId(NamedTuple):
    digest: bytes  # SHA-256 of layer.tar
    size: int  # bytes of layer.tar

    @property
    def diff_id(self) -> str:
        """As the digest is written: "sha256:…"."""
        return f"sha256:{self.digest.hex()}"


@dataclass(eq=False, slots=True)
class Node:
    """An inode while a tree is being made. `children` of a directory: name -> Node, None for a whiteout."""

    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    rdev: int = 0
    layer: int = 0
    data_offset: int = 0
    link: bytes = b""
    xattrs: Mapping[bytes, bytes] = field(default_factory=lambda: NO_XATTRS)
    flags: int = 0
    children: dict[bytes, Node | None] | None = None
    row: int = 0  # its place in the index that is being written

    @classmethod
    def directory(cls, mode: int = 0o755) -> Node:
        return cls(stat.S_IFDIR | mode, children={})


class Index:
    """A mapped index. Raises LayerError where the file is foreign, truncated or corrupt."""

    def __init__(self, path: Path) -> None:
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < HEADER.size:
                    raise LayerError(f"{path} is not an index: {size} bytes")
                self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except OSError as error:
            raise LayerError(f"cannot open the index {path}: {error.strerror}") from error
        magic, version, self.flags, layers, self.rows, self.dirents, listing, heap, crc = HEADER.unpack_from(self._map)
        if magic != MAGIC or version != VERSION:
            self._map.close()
            raise LayerError(f"{path} is not an index of this version")
        self._rows_at = HEADER.size + layers * LAYER.size
        self._dirents_at = self._rows_at + self.rows * ROW.size
        self._listing_at = self._dirents_at + (self.dirents + 1) * DIRENT.size
        self._heap_at = self._listing_at + listing
        head = bytes(self._map[: HEADER.size - 4]) + bytes(self._map[HEADER.size : self._rows_at])
        if zlib.crc32(head) != crc or self._heap_at + heap != size or self.rows == 0 or listing % 8:
            self._map.close()
            raise LayerError(f"the index {path} is corrupt or truncated")
        table = [LAYER.unpack_from(self._map, HEADER.size + i * LAYER.size) for i in range(layers)]
        self.layers = [LayerId(*row) for row in table]
        self._bytes = memoryview(self._map)
        self._places = self._bytes[self._dirents_at : self._listing_at].cast("I")[:: DIRENT.size // 4]
        self._words = self._bytes[self._listing_at : self._heap_at].cast("Q")

    def close(self) -> None:
        self._places.release()
        self._words.release()
        self._bytes.release()
        self._map.close()

    def row(self, number: int) -> Row:
        """Raises CorruptIndex where there is none of this number."""
        if not 0 <= number < self.rows:
            raise CorruptIndex(f"row {number} of {self.rows}")
        return Row._make(ROW.unpack_from(self._map, self._rows_at + number * ROW.size))

    def entry(self, position: int) -> tuple[bytes, int]:
        """(name, row) of a dirent. Raises CorruptIndex where there is none."""
        if not 0 <= position < self.dirents:
            raise CorruptIndex(f"name {position} of {self.dirents}")
        place, row, length, _ = DIRENT.unpack_from(self._map, self._dirents_at + position * DIRENT.size)
        start = self._listing_at + place * 8 + NAME_AT
        return self._map[start : start + length], row

    def listing(self, first: int, count: int, start: int, limit: int) -> tuple[memoryview, int]:
        """Of a directory's `count` dirents from `first` on: the records of as many from the `start`th on as fit in
        `limit` bytes, ready for the kernel, and the number of the one behind them.

        Raises IndexError where none fits, or where the first or the last is not in its place: the kernel goes on behind
        the last one's cookie, which may lead it in a circle. The others: see `check_directory`."""
        places, words = self._places, self._words
        place = places[first + start]
        end = bisect_right(places, place + limit // 8, first + start + 1, first + count + 1) - 1
        last, bound = places[end - 1], places[end]
        if (
            end <= first + start
            or words[place + _COOKIE_WORD] != start + 1
            or words[last + _COOKIE_WORD] != end - first
            or bound != last + (_RECORD_BYTES + (words[last + _LENGTH_WORD] & 0xFFFFFFFF) >> 3)
        ):
            raise CorruptIndex("a listing out of order")
        return self._bytes[self._listing_at + place * 8 : self._listing_at + bound * 8], end - first

    def check_directory(self, first: int, count: int) -> None:
        """Look at every record of a directory. Raises IndexError unless they follow each other with cookies that do."""
        places, words = self._places, self._words
        place = places[first]
        for number in range(count):
            name, _ = self.entry(first + number)
            wanted = place, number + 1, len(name)
            length = words[place + _LENGTH_WORD] & 0xFFFFFFFF
            if wanted != (places[first + number], words[place + _COOKIE_WORD], length) or not is_name(name):
                raise CorruptIndex("a listing out of order")
            place += _RECORD_BYTES + length >> 3
        if places[first + count] != place:
            raise CorruptIndex("a listing out of order")

    def heap(self, at: int, length: int) -> bytes:
        start = self._heap_at + at
        return self._map[start : start + length]

    def lookup(self, directory: Row, name: bytes) -> int | None:
        """The row of a name in a directory: a binary search. Raises CorruptIndex."""
        low, high = directory.first_dirent, directory.first_dirent + directory.dirents
        while low < high:
            middle = (low + high) // 2
            found, row = self.entry(middle)
            if found == name:
                return row
            if found < name:
                low = middle + 1
            else:
                high = middle
        return None

    def entries(self, directory: Row) -> Iterator[tuple[bytes, int]]:
        """(name, row) of each. Raises CorruptIndex, also for what cannot be a name."""
        for position in range(directory.first_dirent, directory.first_dirent + directory.dirents):
            name, row = self.entry(position)
            if not is_name(name):
                raise CorruptIndex(f"the name {shown(name)}")
            yield name, row

    def children(self, directory: Row) -> Iterator[tuple[int, Row]]:
        """(row's number, row) of each entry, in the order of names, but without these. Raises CorruptIndex."""
        first = self._dirents_at + directory.first_dirent * DIRENT.size
        last = first + directory.dirents * DIRENT.size
        for _, number, _, _ in DIRENT.iter_unpack(self._bytes[first : min(last, self._listing_at)]):
            yield number, self.row(number)

    def extent(self, number: int) -> tuple[int, int, int]:
        """Of a directory's row, what a listing needs: (first_dirent, dirents, greatest_id).

        Raises CorruptIndex where there is no such row, or its dirents do not end where the next row's begin."""
        at = self._rows_at + number * ROW.size + _EXTENT_AT
        if 0 <= number < self.rows - 1:
            first, count, greatest_id, end = _EXTENT.unpack_from(self._map, at)
        elif number == self.rows - 1:
            first, count, greatest_id = _LAST_EXTENT.unpack_from(self._map, at)
            end = self.dirents
        else:
            raise CorruptIndex(f"row {number} of {self.rows}")
        if first + count != end:
            raise CorruptIndex(f"row {number} has the names {first} to {first + count}, not to {end}")
        return first, count, greatest_id

    def segments(self, row: Row, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """The content of a regular file, see the function of this name."""
        sparse_map = self.link(row) if row.flags & SPARSE else None
        return segments(row.data_offset, row.size, sparse_map, offset, size)

    def link(self, row: Row) -> bytes:
        return self.heap(row.link_at, row.link_bytes)

    def xattrs(self, row: Row) -> dict[bytes, bytes]:
        return _unpack_xattrs(self.heap(row.xattrs_at, row.xattrs_bytes)) if row.xattrs_bytes else {}

    def to_nodes(self, layer: int | None = None) -> Node:
        """The whole tree as nodes, hard links shared; `layer` replaces the layer number of every row.

        Raises CorruptIndex."""
        made: dict[int, Node] = {}
        times: dict[int, int] = {}  # few are different: one object for all that are equal
        root = self._node(0, layer, made, times)
        if root.children is None:
            raise CorruptIndex("its root is no directory")
        waiting = [(root.children, 0)]
        while waiting:
            children, number = waiting.pop()
            _, count, _ = self.extent(number)
            for name, child in self.entries(self.row(number)):
                if child == WHITEOUT:
                    if self.flags & MERGED:
                        raise CorruptIndex("a whiteout of nothing")
                    children[name] = None
                elif child in made:
                    if made[child].children is not None:
                        raise CorruptIndex("a directory with two parents")
                    children[name] = made[child]
                else:
                    made_child = children[name] = self._node(child, layer, made, times)
                    if made_child.children is not None:
                        waiting.append((made_child.children, child))
            if len(children) != count:
                raise CorruptIndex("a name twice in a directory")
        return root

    def _node(self, number: int, layer: int | None, made: dict[int, Node], times: dict[int, int]) -> Node:
        row = self.row(number)
        self._check(row)
        node = made[number] = Node(
            mode=row.mode,
            uid=row.uid,
            gid=row.gid,
            size=row.size,
            mtime_ns=times.setdefault(row.mtime_ns, row.mtime_ns),
            rdev=row.rdev,
            layer=row.layer if layer is None else layer,
            data_offset=row.data_offset,
            link=self.link(row),
            xattrs=self.xattrs(row) if row.xattrs_bytes else NO_XATTRS,
            flags=row.flags,
            children={} if stat.S_ISDIR(row.mode) else None,
        )
        return node

    def _check(self, row: Row) -> None:
        """Raises CorruptIndex for a row that no layer has."""
        kind = stat.S_IFMT(row.mode)
        if kind not in _TYPES and (row.mode or self.flags & MERGED):
            raise CorruptIndex(f"a file of mode {row.mode:o}")
        if row.link_bytes or row.xattrs_bytes:
            end = max(row.link_at + row.link_bytes, row.xattrs_at + row.xattrs_bytes)
            if self._heap_at + end > len(self._bytes):
                raise CorruptIndex("a text outside of it")
        if kind == stat.S_IFDIR:
            return
        if row.dirents:
            raise CorruptIndex("a file with names in it")
        if kind == stat.S_IFREG and row.size:
            self._check_content(row)

    def _check_content(self, row: Row) -> None:
        if row.layer >= len(self.layers):
            raise CorruptIndex(f"content in layer {row.layer} of {len(self.layers)}")
        if row.flags & SPARSE:
            outside = row.link_bytes % PIECE.size != 0
        else:
            outside = row.data_offset + row.size > self.layers[row.layer].size
        if outside:
            raise CorruptIndex("content outside of its layer")


def is_name(name: bytes) -> bool:
    """Whether a directory may have an entry of this name."""
    return b"/" not in name and b"\0" not in name and name not in (b"", b".", b"..")


def segments(
    data_offset: int, file_size: int, sparse_map: bytes | None, offset: int, size: int
) -> Iterator[tuple[int, int]]:
    """The content of a regular file from `offset` on as (place in the tar, bytes); a place of -1 is a hole.

    At most `size` bytes, and none behind the end of the file. Raises struct.error where the map is none."""
    end = min(offset + size, file_size)
    if sparse_map is None:
        if offset < end:
            yield data_offset + offset, end - offset
        return
    stored = data_offset
    for start, length in PIECE.iter_unpack(sparse_map):
        if start + length > offset:
            if offset >= end:
                return
            if start > offset:
                yield -1, min(start, end) - offset
                offset = start
            if offset < end:
                taken = min(start + length, end) - offset
                yield stored + offset - start, taken
                offset += taken
        stored += length
    if offset < end:
        yield -1, end - offset


def attributes(number: int, mode: int, links: int, uid: int, gid: int, size: int, mtime_ns: int, rdev: int) -> bytes:
    """A row's struct fuse_attr."""
    seconds, nanoseconds = divmod(mtime_ns, 10**9)
    seconds &= 0xFFFFFFFFFFFFFFFF
    times = seconds, seconds, seconds, nanoseconds, nanoseconds, nanoseconds
    return w.ATTR.pack(number + 1, size, -(-size // 512), *times, mode, links, uid, gid, rdev, 4096, 0)


def _unpack_xattrs(data: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    at = 0
    while at + 6 <= len(data):
        names, values = struct.unpack_from("<HI", data, at)
        at += 6
        found[data[at : at + names]] = data[at + names : at + names + values]
        at += names + values
    return found
