"""A layer on disk: a directory with layer.tar (the bytes as they came) and index. Written as the bytes stream in.

Called by image stores, from worker threads. The directory is the caller's to make, rename and remove."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fuse_overlay.errors import LayerError
from fuse_overlay.layers import build, index, indexing
from fuse_overlay.layers.behind import Behind
from fuse_overlay.layers.index import SPARSE, Index, LayerId, Node, Row
from fuse_overlay.layers.tar import TarParser

TAR_NAME = "layer.tar"
INDEX_NAME = "index"


@dataclass(frozen=True)
class Layer:
    """`diff_id` is "sha256:…" of layer.tar, `size` its bytes, `entries` the inodes of its index."""

    diff_id: str
    size: int
    entries: int


class LayerWriter:
    """write() the uncompressed tar in pieces of any size, then finish(); abort() at any time. A large piece is hashed
    and put to the disk by a thread while the caller makes the next, so that its error may come at the next call.

    Raises LayerError for what is not a good archive, OSError from the disk."""

    def __init__(self, directory: Path, *, idle_cpus: bool = True) -> None:
        """`idle_cpus`: see Behind."""
        self._directory = directory
        self._parser = TarParser()
        self._tree = build.LayerTree()
        self._hash = hashlib.sha256()
        self._behind = Behind(idle_cpus=idle_cpus)
        self._size = 0
        self._fd = os.open(directory / TAR_NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    @property
    def diff_id(self) -> str:
        """Of what has been written so far."""
        self._behind.wait()
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, data: bytes | memoryview) -> None:
        self._size += len(data)
        self._behind.give(self._store, data)
        for entry in self._parser.feed(data):
            self._tree.add(entry)

    def _store(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def finish(self) -> Layer:
        """Check the end, write the index while the tar is synced, sync that too."""
        self._behind.wait()
        self._parser.close()
        self._behind.start(lambda: os.fsync(self._fd))
        layers = [LayerId(self._hash.digest(), self._size)]
        rows = indexing.write(self._directory / INDEX_NAME, self._tree.root, layers, merged=self._tree.merged)
        self._behind.wait()
        self.abort()
        return Layer(self.diff_id, self._size, rows)

    def abort(self) -> None:
        """Close what is open; the directory is the caller's to remove. Idempotent."""
        self._behind.end()  # it writes to what is closed next
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_layer(directory: Path) -> Layer:
    """What a layer's index says. Raises LayerError if it does not belong to the tar beside it."""
    opened = _open(directory)
    try:
        (layer,) = opened.layers
        return Layer(layer.diff_id, layer.size, opened.rows)
    finally:
        opened.close()


def index_layer(directory: Path, diff_id: str = "") -> Layer:
    """Make the index anew from layer.tar. Raises LayerError, also where the tar is not that of `diff_id`; OSError."""
    parser, tree, digest, size = TarParser(), build.LayerTree(), hashlib.sha256(), 0
    with open(directory / TAR_NAME, "rb", buffering=0) as file:
        while data := file.read(1 << 20):
            digest.update(data)
            size += len(data)
            for entry in parser.feed(data):
                tree.add(entry)
    parser.close()
    found = f"sha256:{digest.hexdigest()}"
    if diff_id not in ("", found):
        raise LayerError(
            f"layer {diff_id} is damaged: its tar has the digest {found}; remove its images and pull again"
        )
    temporary = directory / f"{INDEX_NAME}.new-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    rows = indexing.write(temporary, tree.root, [LayerId(digest.digest(), size)], merged=tree.merged)
    temporary.rename(directory / INDEX_NAME)
    return Layer(found, size, rows)


def rebuild_tree(tree_path: Path, layer_directories: Sequence[Path], diff_ids: Sequence[str]) -> None:
    """Make the index of an image anew, and those of its layers where they are not sound: after a crash, a full disk, an
    older version. Raises LayerError where a tar itself is damaged, OSError."""
    for directory, diff_id in zip(layer_directories, diff_ids, strict=True):
        try:
            if read_layer(directory).diff_id == diff_id:
                continue
        except LayerError:
            pass
        index_layer(directory, diff_id)
    merge_tree(layer_directories, tree_path)


def merge_tree(layer_directories: Sequence[Path], tree_path: Path, *, lowest: bool = True) -> int:
    """Merge layers, lowest first, into the index of an image; returns its rows. Their own indexes are made anew where
    they are not sound, or of another version. Raises LayerError, OSError.

    Not `lowest`: other layers will be below them, so whiteouts are kept (serve_tree cannot serve such a tree).

    Written under a temporary name beside `tree_path`, synced, renamed."""
    temporary = tree_path.with_name(tree_path.name + f".new-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        rows = _merge(layer_directories, temporary, lowest)
        temporary.rename(tree_path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(tree_path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return rows


def _merge(layer_directories: Sequence[Path], target: Path, lowest: bool) -> int:
    root = Node.directory()
    layers: list[LayerId] = []
    for number, directory in enumerate(layer_directories):
        with closing(_sound(directory)) as opened:  # one at a time: what is mapped of it takes memory
            if len(layer_directories) == 1 and (opened.flags & index.MERGED or not lowest):
                _link_or_copy(directory / INDEX_NAME, target)
                return int(opened.rows)
            try:
                nodes = opened.to_nodes(number)
            except LayerError as error:
                raise LayerError(f"layer {directory.name}: {error}") from error
            build.merge(root, nodes, lowest=lowest)
            layers += opened.layers
    return indexing.write(target, root, layers, merged=lowest)


def _sound(directory: Path) -> Index:
    try:
        return _open(directory)
    except LayerError:
        index_layer(directory)
        return _open(directory)


def _link_or_copy(source: Path, target: Path) -> None:
    """Neither is ever written to. Raises OSError."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())


def _open(directory: Path) -> Index:
    opened = Index(directory / INDEX_NAME)
    try:
        size = os.stat(directory / TAR_NAME).st_size
    except OSError as error:
        raise LayerError(f"layer {directory.name} has no tar: {error.strerror}") from error
    if len(opened.layers) != 1 or opened.layers[0].size != size:
        raise LayerError(f"the index of layer {directory.name} is not that of its tar")
    return opened


class Tree:
    """The merged tree of an image: its index and the tars its contents lie in."""

    def __init__(self, tree: Index, tars: list[int]) -> None:
        self.index = tree
        self.tars = tars

    @property
    def diff_ids(self) -> list[str]:
        """Of its layers, lowest first, as "sha256:…"."""
        return [layer.diff_id for layer in self.index.layers]

    def close(self) -> None:
        self.index.close()
        for fd in self.tars:
            os.close(fd)
        self.tars.clear()

    def preadv(self, row: Row, view: memoryview, offset: int) -> None:
        """Fill `view` with a regular file's content from `offset` on; both lie within the file's size.

        Raises OSError (EIO where the tar has become shorter), IndexError where the index lies."""
        tar = self.tars[row.layer]
        if not row.flags & SPARSE:
            if os.preadv(tar, [view], row.data_offset + offset) != len(view):
                raise OSError(errno.EIO, "the tar is shorter than its index says")
            return
        filled = 0
        for place, length in self.index.segments(row, offset, len(view)):
            part = view[filled : filled + length]
            if place < 0:
                part[:] = bytes(length)
            elif os.preadv(tar, [part], place) != length:
                raise OSError(errno.EIO, "the tar is shorter than its index says")
            filled += length

    def read_file(self, path: bytes, limit: int) -> bytes | None:
        """The first `limit` bytes of a regular file at a path without links, or None."""
        number: int | None = 0
        for part in path.strip(b"/").split(b"/"):
            number = None if number is None else self.index.lookup(self.index.row(number), part)
        if number is None:
            return None
        row = self.index.row(number)
        if not stat.S_ISREG(row.mode):
            return None
        content = bytearray(min(limit, row.size))
        self.preadv(row, memoryview(content), 0)
        return bytes(content)


def reopen_tree(tree_path: Path, layer_directories: Sequence[Path], diff_ids: Sequence[str]) -> Tree:
    """For a server that died, maybe of its index: reading a mapped file that was cut short is SIGBUS. Such an index
    is made anew, and has the same rows at the same places. Raises LayerError where a tar is damaged too, OSError."""
    try:
        return open_tree(tree_path, layer_directories, diff_ids)
    except LayerError:
        rebuild_tree(tree_path, layer_directories, diff_ids)
        return open_tree(tree_path, layer_directories, diff_ids)


def open_tree(tree_path: Path, layer_directories: Sequence[Path], diff_ids: Sequence[str] | None = None) -> Tree:
    """Raises LayerError where the index is not that of these layers (by their diff ids, where they are given)."""
    tree = Index(tree_path)
    tars: list[int] = []
    try:
        if len(tree.layers) != len(layer_directories):
            raise LayerError(f"the tree {tree_path.name} is of {len(tree.layers)} layers, not {len(layer_directories)}")
        if diff_ids is not None and [layer.diff_id for layer in tree.layers] != list(diff_ids):
            raise LayerError(f"the tree {tree_path.name} is of other layers")
        for layer, directory in zip(tree.layers, layer_directories, strict=True):
            tars.append(os.open(directory / TAR_NAME, os.O_RDONLY | os.O_CLOEXEC))
            if os.fstat(tars[-1]).st_size != layer.size:
                raise LayerError(f"layer {directory.name} has changed since the tree {tree_path.name} was made")
    except BaseException as error:
        tree.close()
        for fd in tars:
            os.close(fd)
        if isinstance(error, OSError):
            raise LayerError(f"cannot open a layer of the tree {tree_path.name}: {error.strerror}") from error
        raise
    return Tree(tree, tars)
