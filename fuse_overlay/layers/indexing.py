"""Writes an index: a tree of nodes as the file that `index` maps, in one pass, the listing streamed to the disk."""

from __future__ import annotations

import os
import struct
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fuse_overlay.errors import LayerError
from fuse_overlay.layers.index import (
    DIRENT,
    HEADER,
    LAYER,
    MAGIC,
    MERGED,
    NAME_AT,
    PIECE,
    ROW,
    VERSION,
    WHITEOUT,
    XATTRS,
    LayerId,
    Node,
    attributes,
)
from fuse_overlay.wire import structs as w

_CHUNK = 256 << 10


def pack_pieces(pieces: Sequence[tuple[int, int]]) -> bytes:
    """The map of a sparse file: (offset, bytes) of what is stored, in order."""
    return b"".join(PIECE.pack(*piece) for piece in pieces)


def write(path: Path, root: Node, layers: Sequence[LayerId], *, merged: bool, sync: bool = True) -> int:
    """Write an index of the tree below `root` to a new file and `sync` it; returns the number of rows. Raises OSError,
    LayerError (too large)."""
    numbering = _number(root)
    order = numbering.order
    rows_at = HEADER.size + len(layers) * LAYER.size
    dirents_at = rows_at + len(order) * ROW.size
    listing_at = dirents_at + (numbering.dirents + 1) * DIRENT.size
    heap = bytearray()
    flags = MERGED if merged else 0
    written = 0
    with open(path, "xb", buffering=0) as file:
        rows, dirents = _Region(file.fileno(), rows_at), _Region(file.fileno(), dirents_at)
        listing = _Region(file.fileno(), listing_at)
        for number, node in enumerate(order):
            link_at = len(heap)
            heap += node.link
            xattrs_at = len(heap)
            if node.xattrs:
                heap += _pack_xattrs(node.xattrs)
                flags |= XATTRS
            xattrs_bytes = len(heap) - xattrs_at
            greatest = 0
            names: Sequence[bytes] = sorted(node.children) if node.children else ()
            for position, name in enumerate(names):
                child = node.children[name] if node.children else None
                if child is None:
                    dirents.add(DIRENT.pack(listing.size // 8, WHITEOUT, len(name), 0))
                    listing.add(_record(0, _NO_ATTRIBUTES, position, name, 0))
                    continue
                dirents.add(DIRENT.pack(listing.size // 8, child.row, len(name), 0))
                listing.add(_record(child.row + 1, _attributes(numbering, child), position, name, child.mode >> 12))
                greatest = max(greatest, child.uid, child.gid)
            rows.add(
                ROW.pack(
                    node.mode,
                    node.uid,
                    node.gid,
                    _links(numbering, node),
                    _size(node),
                    node.mtime_ns,
                    node.rdev,
                    node.layer,
                    node.data_offset,
                    link_at,
                    len(node.link),
                    xattrs_at,
                    xattrs_bytes,
                    written,
                    len(names),
                    numbering.parents[number],
                    node.flags,
                    greatest,
                )
            )
            written += len(names)
            if len(heap) >= 1 << 32 or listing.size >= 1 << 35:
                raise LayerError("too many names for an index")
        dirents.add(DIRENT.pack(listing.size // 8, WHITEOUT, 0, 0))
        for region in (rows, dirents, listing):
            region.flush()
        contents = _Region(file.fileno(), listing_at + listing.size)
        contents.add(heap)
        contents.flush()
        table = b"".join(LAYER.pack(*layer) for layer in layers)
        head = HEADER.pack(MAGIC, VERSION, flags, len(layers), len(order), written, listing.size, len(heap), 0)
        head = head[: HEADER.size - 4]
        start = _Region(file.fileno(), 0)
        start.add(head + struct.pack("<I", zlib.crc32(head + table)) + table)
        start.flush()
        if sync:
            os.fsync(file.fileno())
    return len(order)


class _Region:
    """A part of the file that is written from its beginning on, in chunks. Raises OSError."""

    def __init__(self, fd: int, at: int) -> None:
        self._fd, self._at = fd, at
        self._buffer = bytearray()
        self.size = 0

    def add(self, data: bytes | bytearray) -> None:
        self._buffer += data
        self.size += len(data)
        if len(self._buffer) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        with memoryview(self._buffer) as view:
            done = 0
            while done < len(view):
                done += os.pwrite(self._fd, view[done:], self._at + done)
        self._at += done
        self._buffer = bytearray()


@dataclass
class _Numbering:
    """Rows in breadth-first order: their nodes (Node.row is the place there); by row: parent's row, names that lead to
    it, directories in it."""

    order: list[Node]
    parents: array[int]
    links: array[int]
    subdirectories: array[int]
    dirents: int = 0


def _number(root: Node) -> _Numbering:
    made = _Numbering([root], array("I", [0]), array("I", [1]), array("I"))
    order, parents, links = made.order, made.parents, made.links
    root.row = 0
    at = 0
    while at < len(order):
        node = order[at]
        subdirectories = 0
        for name in sorted(node.children) if node.children else ():
            child = node.children[name] if node.children else None
            if child is None:
                continue
            subdirectories += child.children is not None
            if child.row < len(order) and order[child.row] is child:  # a further name; else its row is of another time
                links[child.row] += 1
                continue
            child.row = len(order)
            order.append(child)
            parents.append(at)
            links.append(1)
        made.subdirectories.append(subdirectories)
        made.dirents += len(node.children or ())
        at += 1
    return made


def _links(numbering: _Numbering, node: Node) -> int:
    if node.children is not None:
        return 2 + numbering.subdirectories[node.row]
    return numbering.links[node.row]


def _size(node: Node) -> int:
    return node.size if node.children is None else 4096


def _attributes(numbering: _Numbering, node: Node) -> bytes:
    links = _links(numbering, node)
    return attributes(node.row, node.mode, links, node.uid, node.gid, _size(node), node.mtime_ns, node.rdev)


_NO_ATTRIBUTES = bytes(w.ATTR.size)


def _record(nodeid: int, attribute: bytes, position: int, name: bytes, kind: int) -> bytes:
    head = w.ENTRY.pack(nodeid, 0, w.FOREVER, w.FOREVER, 0, 0) + attribute
    length = w.pad8(NAME_AT + len(name)) - NAME_AT
    return head + w.DIRENT.pack(nodeid, position + 1, len(name), kind) + name.ljust(length, b"\0")


def _pack_xattrs(xattrs: Mapping[bytes, bytes]) -> bytes:
    return b"".join(struct.pack("<HI", len(name), len(value)) + name + value for name, value in sorted(xattrs.items()))
