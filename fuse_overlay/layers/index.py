"""The index of a layer or of a whole image: a file that is mapped, never parsed.

    header   magic, version, the sizes of what follows, CRC-32 of header and layer table
    layers   per layer: SHA-256 of its layer.tar (the diff id) and that file's size
    rows     one per inode, fixed size; row 0 is the root
    dirents  (name, row) sorted by name within a directory; a directory's are contiguous
    heap     names, link texts, xattrs

A layer's own index uses the same form with two additions: a dirent of row WHITEOUT hides a name of the layers below,
and a row of mode 0 is a hard link to a path (its link text) of the layers below. `merge` resolves both."""

from __future__ import annotations

import mmap
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fuse_overlay.errors import LayerError

MAGIC = b"rl-index"
VERSION = 1
WHITEOUT = 0xFFFFFFFF
OPAQUE = 1  # flag of a directory's row: nothing of the layers below shows through

_HEADER = struct.Struct("<8sIIIIIQI")  # magic version flags layers rows dirents heap_bytes crc
_LAYER = struct.Struct("<32sQ")
_ROW = struct.Struct("<IIIIQqIIQIIIIIIII")
_DIRENT = struct.Struct("<IHHI")
MERGED = 1  # header flag: neither whiteouts nor unresolved hard links


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


class LayerId(NamedTuple):
    digest: bytes  # SHA-256 of layer.tar
    size: int  # bytes of layer.tar


@dataclass(eq=False)
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
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    flags: int = 0
    children: dict[bytes, Node | None] | None = None

    @classmethod
    def directory(cls, mode: int = 0o755) -> Node:
        return cls(stat.S_IFDIR | mode, children={})


class Index:
    """A mapped index. Raises LayerError where the file is foreign, truncated or corrupt."""

    def __init__(self, path: Path) -> None:
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < _HEADER.size:
                    raise LayerError(f"{path} is not an index: {size} bytes")
                self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except OSError as error:
            raise LayerError(f"cannot open the index {path}: {error.strerror}") from error
        magic, version, self.flags, layers, self.rows, self.dirents, heap, crc = _HEADER.unpack_from(self._map)
        if magic != MAGIC or version != VERSION:
            raise LayerError(f"{path} is not an index of this version")
        self._rows_at = _HEADER.size + layers * _LAYER.size
        self._dirents_at = self._rows_at + self.rows * _ROW.size
        self._heap_at = self._dirents_at + self.dirents * _DIRENT.size
        head = bytes(self._map[: _HEADER.size - 4]) + bytes(self._map[_HEADER.size : self._rows_at])
        if zlib.crc32(head) != crc or self._heap_at + heap != size or self.rows == 0:
            raise LayerError(f"the index {path} is corrupt or truncated")
        table = [_LAYER.unpack_from(self._map, _HEADER.size + i * _LAYER.size) for i in range(layers)]
        self.layers = [LayerId(*row) for row in table]

    def close(self) -> None:
        self._map.close()

    def row(self, number: int) -> Row:
        """Raises IndexError."""
        if not 0 <= number < self.rows:
            raise IndexError(number)
        return Row._make(_ROW.unpack_from(self._map, self._rows_at + number * _ROW.size))

    def entry(self, position: int) -> tuple[bytes, int]:
        """(name, row) of a dirent. Raises IndexError."""
        if not 0 <= position < self.dirents:
            raise IndexError(position)
        name_at, length, _, row = _DIRENT.unpack_from(self._map, self._dirents_at + position * _DIRENT.size)
        return self.heap(name_at, length), row

    def heap(self, at: int, length: int) -> bytes:
        start = self._heap_at + at
        return self._map[start : start + length]

    def lookup(self, directory: Row, name: bytes) -> int | None:
        """The row of a name in a directory: a binary search."""
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
        for position in range(directory.first_dirent, directory.first_dirent + directory.dirents):
            yield self.entry(position)

    def link(self, row: Row) -> bytes:
        return self.heap(row.link_at, row.link_bytes)

    def xattrs(self, row: Row) -> dict[bytes, bytes]:
        return _unpack_xattrs(self.heap(row.xattrs_at, row.xattrs_bytes)) if row.xattrs_bytes else {}

    def to_nodes(self, layer: int | None = None) -> Node:
        """The whole tree as nodes, hard links shared; `layer` replaces the layer number of every row."""
        made: dict[int, Node] = {}
        root = self._node(0, layer, made)
        waiting = [(root, 0)]
        while waiting:
            node, number = waiting.pop()
            for name, child in self.entries(self.row(number)):
                assert node.children is not None
                if child == WHITEOUT:
                    node.children[name] = None
                elif child in made:
                    if made[child].children is not None:
                        raise LayerError("the index is corrupt: a directory with two parents")
                    node.children[name] = made[child]
                else:
                    made_child = node.children[name] = self._node(child, layer, made)
                    if made_child.children is not None:
                        waiting.append((made_child, child))
        return root

    def _node(self, number: int, layer: int | None, made: dict[int, Node]) -> Node:
        try:
            row = self.row(number)
        except IndexError as error:
            raise LayerError("the index is corrupt: a row outside") from error
        node = made[number] = Node(
            mode=row.mode,
            uid=row.uid,
            gid=row.gid,
            size=row.size,
            mtime_ns=row.mtime_ns,
            rdev=row.rdev,
            layer=row.layer if layer is None else layer,
            data_offset=row.data_offset,
            link=self.link(row),
            xattrs=self.xattrs(row),
            flags=row.flags,
            children={} if stat.S_ISDIR(row.mode) else None,
        )
        return node


def write(path: Path, root: Node, layers: Sequence[LayerId], *, merged: bool) -> int:
    """Write an index of the tree below `root` to a new file and sync it; returns the number of rows. Raises OSError,
    LayerError (too large)."""
    order, numbers, parents, links = _number(root)
    heap = bytearray()
    rows = bytearray()
    dirents = bytearray()
    written = 0
    for number, node in enumerate(order):
        link_at = len(heap)
        heap += node.link
        xattrs_at = len(heap)
        heap += _pack_xattrs(node.xattrs)
        xattrs_bytes = len(heap) - xattrs_at
        first, count, subdirectories = written, 0, 0
        if node.children is not None:
            for name in sorted(node.children):
                child = node.children[name]
                subdirectories += child is not None and child.children is not None
                row = WHITEOUT if child is None else numbers[id(child)]
                dirents += _DIRENT.pack(len(heap), len(name), 0, row)
                heap += name
                count += 1
            written += count
        rows += _ROW.pack(
            node.mode,
            node.uid,
            node.gid,
            2 + subdirectories if node.children is not None else links[number],
            node.size if node.children is None else 4096,
            node.mtime_ns,
            node.rdev,
            node.layer,
            node.data_offset,
            link_at,
            len(node.link),
            xattrs_at,
            xattrs_bytes,
            first,
            count,
            parents[number],
            node.flags,
        )
        if len(heap) >= 1 << 32:
            raise LayerError("too many names for an index")
    table = b"".join(_LAYER.pack(*layer) for layer in layers)
    head = _HEADER.pack(MAGIC, VERSION, MERGED if merged else 0, len(layers), len(order), written, len(heap), 0)[
        : _HEADER.size - 4
    ]
    with open(path, "xb") as file:
        file.write(head + struct.pack("<I", zlib.crc32(head + table)) + table)
        file.write(rows)
        file.write(dirents)
        file.write(heap)
        file.flush()
        os.fsync(file.fileno())
    return len(order)


def _number(root: Node) -> tuple[list[Node], dict[int, int], list[int], list[int]]:
    """Rows in breadth-first order: (nodes, id(node) -> row, parent's row by row, names by row)."""
    order, parents, links = [root], [0], [1]
    numbers = {id(root): 0}
    at = 0
    while at < len(order):
        node = order[at]
        for name in sorted(node.children) if node.children else ():
            child = node.children[name] if node.children else None
            if child is None:
                continue
            known = numbers.get(id(child))
            if known is None:
                numbers[id(child)] = len(order)
                order.append(child)
                parents.append(at)
                links.append(1)
            else:
                links[known] += 1
        at += 1
    return order, numbers, parents, links


def _pack_xattrs(xattrs: dict[bytes, bytes]) -> bytes:
    return b"".join(struct.pack("<HI", len(name), len(value)) + name + value for name, value in sorted(xattrs.items()))


def _unpack_xattrs(data: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    at = 0
    while at + 6 <= len(data):
        names, values = struct.unpack_from("<HI", data, at)
        at += 6
        found[data[at : at + names]] = data[at + names : at + names + values]
        at += names + values
    return found
