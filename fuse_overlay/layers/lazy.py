"""A layer whose contents come when they are read: its tree is known, its `layer.tar` is no tar but a sparse file, the
contents of its members one after the other, and filled span by span by somebody else.

    layer.tar   the contents; holes where they have not come yet
    index       as that of any layer, with offsets in this file
    spans       where each span begins and ends
    present     a byte for each span, 1 when it is there; mapped by all who read or fill
    server      path of the socket of whoever fills: it is sent "<directory> <span> <span> …\\n" and answers one byte, 1
                when those are there, 0 when they will not come

Nothing of it is synced: what is lost can be fetched again. Written by `write_lazy_layer`; filled by `LazyContent.put`;
read by `lazy_server`."""

from __future__ import annotations

import bisect
import mmap
import os
import socket
import stat
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fuse_overlay.errors import LayerError
from fuse_overlay.layers import build, indexing
from fuse_overlay.layers.entry import Entry
from fuse_overlay.layers.index import MERGED, SPARSE, Index, LayerId
from fuse_overlay.layers.store import INDEX_NAME, TAR_NAME, merge_tree

SPANS_NAME, PRESENT_NAME, SERVER_NAME = "spans", "present", "server"
CONNECT_SECONDS = 60.0  # whoever fills may be started again meanwhile
ANSWER_SECONDS = 600.0
_COPY_BYTES = 1 << 20
_SPAN = struct.Struct("<QQ")


def write_lazy_layer(
    directory: Path, members: Iterable[Entry], identity: bytes, spans: Sequence[tuple[int, int]], server: Path
) -> None:
    """`members` with offsets in the contents; `identity` 32 bytes that stand for the layer; `spans` (begin, end) in
    ascending order. Raises LayerError, OSError."""
    size = spans[-1][1] if spans else 0
    tree = build.LayerTree()
    for member in members:
        tree.add(member)
    fd = os.open(directory / TAR_NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)
    (directory / SPANS_NAME).write_bytes(b"".join(_SPAN.pack(*span) for span in spans))
    (directory / PRESENT_NAME).write_bytes(bytes(max(1, len(spans))))
    (directory / SERVER_NAME).write_bytes(os.fsencode(server))
    indexing.write(directory / INDEX_NAME, tree.root, [LayerId(identity, size)], merged=tree.merged, sync=False)


def merge_lazy_tree(directories: Sequence[Path], tree_path: Path) -> None:
    """As merge_tree; the tree of a single layer is its own index. Raises LayerError, OSError."""
    if len(directories) == 1:
        opened = Index(directories[0] / INDEX_NAME)
        alone = bool(opened.flags & MERGED)
        opened.close()
        if alone:
            os.link(directories[0] / INDEX_NAME, tree_path)
            return
    merge_tree(directories, tree_path)


class LazyContent:
    """One such layer, opened. Raises LayerError."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            table = (directory / SPANS_NAME).read_bytes()
            self._server = os.fsdecode((directory / SERVER_NAME).read_bytes())
            with open(directory / PRESENT_NAME, "r+b") as file:
                self._present = mmap.mmap(file.fileno(), 0)
            self._fd = os.open(directory / TAR_NAME, os.O_RDWR | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise LayerError(f"cannot open the layer {directory.name}: {error}") from error
        self.spans = list(_SPAN.iter_unpack(table))
        self._begins = [begin for begin, _ in self.spans]

    @classmethod
    def of(cls, directory: Path) -> LazyContent | None:
        """None where the directory is a whole layer."""
        return cls(directory) if (directory / SPANS_NAME).exists() else None

    def close(self) -> None:
        self._present.close()
        os.close(self._fd)

    @property
    def complete(self) -> bool:
        return self._present.find(b"\0", 0, len(self.spans)) < 0

    def missing(self, offset: int, size: int) -> list[int]:
        """The spans that are not there yet, of those that a part of the contents lies in."""
        first = max(0, bisect.bisect_right(self._begins, offset) - 1)
        end = bisect.bisect_left(self._begins, offset + size)
        return [number for number in range(first, end) if not self._present[number]]

    def put(self, number: int, data: bytes) -> None:
        """Fill a span. Raises OSError, ValueError (length)."""
        begin, end = self.spans[number]
        if len(data) != end - begin:
            raise ValueError(f"span {number} has {end - begin} bytes, not {len(data)}")
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, begin)
            begin, view = begin + written, view[written:]
        self._present[number] = 1

    def copy_from(self, source: int, at: int, offset: int, size: int) -> None:
        """Fill the spans of a file's contents from where those lie in another. Raises OSError."""
        spans = range(bisect.bisect_left(self._begins, offset), bisect.bisect_left(self._begins, offset + size))
        while size:
            copied = os.pwrite(self._fd, os.pread(source, min(size, _COPY_BYTES), at), offset)
            if not copied:
                raise OSError(5, "the layer is shorter than its index says")
            at, offset, size = at + copied, offset + copied, size - copied
        for number in spans:
            self._present[number] = 1

    def ask(self, numbers: Sequence[int]) -> bool:
        """Have spans filled, and wait; False where they will not come. Blocking."""
        message = f"{self.directory} {' '.join(map(str, numbers))}\n".encode()
        until = time.monotonic() + CONNECT_SECONDS
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as asking:
                    asking.connect(self._server)
                    asking.settimeout(ANSWER_SECONDS)
                    asking.sendall(message)
                    if answer := asking.recv(1):
                        return answer == b"\1"
            except OSError:
                pass
            if time.monotonic() > until:
                return False
            time.sleep(0.2)
            if all(self._present[number] for number in numbers):
                return True


def contents_in_common(whole: Path, lazy: Path) -> Iterator[tuple[int, int, int]]:
    """(offset in the whole layer's tar, offset in the lazy one's contents, bytes) of each file that both directories
    have under the same name. Raises LayerError."""
    both = [Index(directory / INDEX_NAME) for directory in (whole, lazy)]
    try:
        waiting = [tuple(opened.to_nodes() for opened in both)]
        while waiting:
            one, other = waiting.pop()
            if one.children is None or other.children is None:
                regular = stat.S_ISREG(one.mode) and stat.S_ISREG(other.mode)
                if regular and one.size and one.size == other.size and not one.flags & SPARSE:
                    yield one.data_offset, other.data_offset, one.size
                continue
            for name, child in one.children.items():
                twin = other.children.get(name)
                if child is not None and twin is not None:
                    waiting.append((child, twin))
    finally:
        for opened in both:
            opened.close()
