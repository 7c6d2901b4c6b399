"""Writes an index: a tree of nodes as the file that `index` maps, in one pass, the listing streamed to the disk."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
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

_CHUNK = 4 << 20


def pack_pieces(pieces: Sequence[tuple[int, int]]) -> bytes:
    """The map of a sparse file: (offset, bytes) of what is stored, in order."""
    return b"".join(PIECE.pack(*piece) for piece in pieces)


def write(path: Path, root: Node, layers: Sequence[LayerId], *, merged: bool) -> int:
    """Write an index of the tree below `root` to a new file and sync it; returns the number of rows. Raises OSError,
    LayerError (too large)."""
    numbering = _number(root)
    order, numbers = numbering.order, numbering.numbers
    packed = [_attributes(number, node, _links(numbering, number), _size(node)) for number, node in enumerate(order)]
    rows_at = HEADER.size + len(layers) * LAYER.size
    listing_at = rows_at + len(order) * ROW.size + (numbering.dirents + 1) * DIRENT.size
    heap, rows, dirents, records = bytearray(), bytearray(), bytearray(), bytearray()
    flags = MERGED if merged else 0
    written = listed = 0
    with open(path, "xb") as file:
        file.seek(listing_at)
        for number, node in enumerate(order):
            link_at = len(heap)
            heap += node.link
            xattrs_at = len(heap)
            if node.xattrs:
                heap += _pack_xattrs(node.xattrs)
                flags |= XATTRS
            xattrs_bytes = len(heap) - xattrs_at
            greatest = 0
            names = numbering.names[number]
            for position, name in enumerate(names):
                child = node.children[name] if node.children else None
                dirents += DIRENT.pack((listed + len(records)) // 8, WHITEOUT, len(name), 0)
                if child is None:
                    records += _record(0, _NO_ATTRIBUTES, position, name, 0)
                    continue
                row = numbers[id(child)]
                dirents[-8:-4] = row.to_bytes(4, "little")
                records += _record(row + 1, packed[row], position, name, child.mode >> 12)
                greatest = max(greatest, child.uid, child.gid)
            rows += ROW.pack(
                node.mode,
                node.uid,
                node.gid,
                _links(numbering, number),
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
            written += len(names)
            if len(records) > _CHUNK:
                file.write(records)
                listed += len(records)
                records.clear()
            if len(heap) >= 1 << 32 or listed >= 1 << 35:
                raise LayerError("too many names for an index")
        file.write(records)
        listed += len(records)
        dirents += DIRENT.pack(listed // 8, WHITEOUT, 0, 0)
        file.write(heap)
        table = b"".join(LAYER.pack(*layer) for layer in layers)
        head = HEADER.pack(MAGIC, VERSION, flags, len(layers), len(order), written, listed, len(heap), 0)
        head = head[: HEADER.size - 4]
        file.seek(0)
        file.write(head + struct.pack("<I", zlib.crc32(head + table)) + table)
        file.write(rows)
        file.write(dirents)
        file.flush()
        os.fsync(file.fileno())
    return len(order)


@dataclass
class _Numbering:
    """Rows in breadth-first order: their nodes, id(node) -> row; by row: parent's row, names that lead to it, names
    in it, directories in it."""

    order: list[Node]
    numbers: dict[int, int]
    parents: list[int]
    links: list[int]
    names: list[Sequence[bytes]]
    subdirectories: list[int]
    dirents: int = 0


def _number(root: Node) -> _Numbering:
    made = _Numbering([root], {id(root): 0}, [0], [1], [], [])
    order, numbers = made.order, made.numbers
    at = 0
    while at < len(order):
        node = order[at]
        names: Sequence[bytes] = sorted(node.children) if node.children else ()
        subdirectories = 0
        for name in names:
            child = node.children[name] if node.children else None
            if child is None:
                continue
            subdirectories += child.children is not None
            known = numbers.get(id(child))
            if known is None:
                numbers[id(child)] = len(order)
                order.append(child)
                made.parents.append(at)
                made.links.append(1)
            else:
                made.links[known] += 1
        made.names.append(names)
        made.subdirectories.append(subdirectories)
        made.dirents += len(names)
        at += 1
    return made


def _links(numbering: _Numbering, number: int) -> int:
    if numbering.order[number].children is not None:
        return 2 + numbering.subdirectories[number]
    return numbering.links[number]


def _size(node: Node) -> int:
    return node.size if node.children is None else 4096


def _attributes(number: int, node: Node, links: int, size: int) -> bytes:
    return attributes(number, node.mode, links, node.uid, node.gid, size, node.mtime_ns, node.rdev)


_NO_ATTRIBUTES = bytes(w.ATTR.size)


def _record(nodeid: int, attribute: bytes, position: int, name: bytes, kind: int) -> bytes:
    head = w.ENTRY.pack(nodeid, 0, w.FOREVER, w.FOREVER, 0, 0) + attribute
    length = w.pad8(NAME_AT + len(name)) - NAME_AT
    return head + w.DIRENT.pack(nodeid, position + 1, len(name), kind) + name.ljust(length, b"\0")


def _pack_xattrs(xattrs: dict[bytes, bytes]) -> bytes:
    return b"".join(struct.pack("<HI", len(name), len(value)) + name + value for name, value in sorted(xattrs.items()))
