"""What a container wrote, and what it sees, as tar streams: straight from its upper directory and the tars of its
layers, with no mount. Called in a process that may read the upper directory's files (root in the user namespace)."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

from fuse_overlay.layers import build, changes
from fuse_overlay.layers.changes import UPPER, UpperTree
from fuse_overlay.layers.emit import TarWriter
from fuse_overlay.layers.entry import OPAQUE_NAME, WHITEOUT_PREFIX, Entry
from fuse_overlay.layers.index import OPAQUE, SPARSE, Node, segments
from fuse_overlay.layers.store import Tree


def upper_changes(directory: Path, tree: Tree | None, mount_points: Collection[bytes] = ()) -> list[tuple[int, bytes]]:
    """What an upper directory changes of a tree: (0 modified, 1 added, 2 deleted; absolute path), sorted.

    `mount_points` are relative paths of empty files and directories that do not count. Raises OSError."""
    index = tree.index if tree is not None else None
    with changes.scan(directory) as scanned:
        changes.prune(scanned.root, index, mount_points)
        return changes.differences(scanned.root, index)


def write_upper(directory: Path, tree: Tree | None, out: int, mount_points: Collection[bytes] = ()) -> None:
    """The changes as a layer's tar (OCI image-spec, layer.md), whiteouts included, to a descriptor. Raises OSError."""
    with changes.scan(directory) as scanned:
        changes.prune(scanned.root, tree.index if tree is not None else None, mount_points)
        writer = _Writer(out, scanned, None)
        writer.below(scanned.root, b"")
        writer.end()


def write_merged(directory: Path, tree: Tree | None, out: int, mount_points: Collection[bytes] = ()) -> None:
    """The whole file system, upper directory over tree, as a tar. Raises OSError, LayerError."""
    with changes.scan(directory) as scanned:
        changes.prune(scanned.root, tree.index if tree is not None else None, mount_points)
        root = tree.index.to_nodes() if tree is not None else Node.directory()
        build.merge(root, scanned.root)
        writer = _Writer(out, scanned, tree)
        writer.below(root, b"")
        writer.end()


class _Writer:
    def __init__(self, out: int, scanned: UpperTree, tree: Tree | None) -> None:
        self._tar = TarWriter(out)
        self._scanned, self._tree = scanned, tree
        self._written: dict[int, bytes] = {}  # id of a node -> the path it has in the archive
        self.end = self._tar.end

    def below(self, root: Node, path: bytes) -> None:
        """All below a directory, parents before children."""
        waiting: list[tuple[Node, bytes]] = [(root, path)]
        while waiting:
            directory, where = waiting.pop()
            if directory is not root:
                self._tar.add(_entry(directory, where))
            if directory.flags & OPAQUE:
                self._tar.add(Entry(where + b"/" + OPAQUE_NAME, stat.S_IFREG | 0o600))
            deeper = []
            for name, child in changes.sorted_children(directory):
                below = where + b"/" if where else b""
                if child is None:
                    self._tar.add(Entry(below + WHITEOUT_PREFIX + name, stat.S_IFREG | 0o600))
                elif child.children is not None:
                    deeper.append((child, below + name))
                else:
                    self._file(child, below + name)
            waiting += reversed(deeper)

    def _file(self, node: Node, path: bytes) -> None:
        if (first := self._written.get(id(node))) is not None:
            self._tar.add(Entry(path, node.mode, node.uid, node.gid, link=first, hard_link=True))
            return
        entry = _entry(node, path)
        if not stat.S_ISREG(node.mode) or not node.size:
            self._tar.add(entry)
        elif node.layer != UPPER:
            assert self._tree is not None
            tar = self._tree.tars[node.layer]
            if node.flags & SPARSE:
                self._tar.add_pieces(entry, tar, segments(node.data_offset, node.size, node.link, 0, node.size))
            else:
                self._tar.add(entry, tar, node.data_offset)
        else:
            fd = self._scanned.open(node)
            if fd is None:
                return  # removed meanwhile
            try:
                self._tar.add(entry, fd)
            finally:
                os.close(fd)
        self._written[id(node)] = path


def _entry(node: Node, path: bytes) -> Entry:
    return Entry(
        path=path,
        mode=node.mode,
        uid=node.uid,
        gid=node.gid,
        size=node.size if stat.S_ISREG(node.mode) else 0,
        mtime_ns=node.mtime_ns,
        rdev=node.rdev,
        link=node.link if stat.S_ISLNK(node.mode) else b"",
        xattrs=node.xattrs,
    )
