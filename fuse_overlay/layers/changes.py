"""A writable layer as a tree of nodes: what overlayfs with `userxattr`, or our own union, puts in an upper directory.

    whiteout   a character device 0/0, or an empty file with user.overlay.whiteout in a directory opaque "x"
    opaque     user.overlay.opaque is "y"
    owner      user.overlay.rootless.owner is "uid:gid:mode (octal)", where the file could not be given to them; its
               mode is its own, which may have been changed since
    others     user.overlay.… are overlayfs' own notes; user.overlay.overlay.… is a container's user.overlay.…

Sources: Documentation/filesystems/overlayfs.rst. Somebody else may be writing there, and what they write is hostile:
every component is opened without following links."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from fuse_overlay.layers.index import OPAQUE, Index, Node, Row
from fuse_overlay.union.marks import parse_owner

UPPER = -1  # the `layer` of nodes whose content is in the upper directory
_NOTES = b"user.overlay."
_ESCAPED = b"user.overlay.overlay."
MODIFIED, ADDED, DELETED = 0, 1, 2


@dataclass
class UpperTree:
    """`root` and, by the `data_offset` of a regular file's node, its path."""

    opener: Opener
    root: Node
    paths: list[bytes] = field(default_factory=list)

    def open(self, node: Node) -> int | None:
        """A descriptor of a regular file, the caller's to close; None where it has gone."""
        return self.opener.file(self.paths[node.data_offset])


class Opener:
    """Opens what is below a directory, component by component. The last directory is kept open."""

    def __init__(self, directory: str | bytes | os.PathLike[str]) -> None:
        self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._last: tuple[bytes, int] = b"", self._root

    def close(self) -> None:
        self._forget()
        os.close(self._root)

    def _forget(self) -> None:
        if self._last[1] != self._root:
            os.close(self._last[1])
        self._last = b"", self._root

    def directory(self, path: bytes) -> int:
        """A descriptor of ours, good until the next call. Raises OSError."""
        if self._last[0] == path:
            return self._last[1]
        self._forget()
        fd = self._root
        try:
            for part in path.split(b"/") if path else ():
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                if fd != self._root:
                    os.close(fd)
                fd = below
        except OSError:
            if fd != self._root:
                os.close(fd)
            raise
        self._last = path, fd
        return fd

    def file(self, path: bytes) -> int | None:
        parent, _, name = path.rpartition(b"/")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(name, flags, dir_fd=self.directory(parent))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                return None
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            return None
        return fd


@contextlib.contextmanager
def scan(directory: str | bytes | os.PathLike[str]) -> Iterator[UpperTree]:
    """The tree below an upper directory. Raises OSError."""
    opener = Opener(directory)
    try:
        tree = UpperTree(opener, Node.directory())
        links: dict[tuple[int, int], Node] = {}
        waiting: list[tuple[bytes, Node]] = [(b"", tree.root)]
        while waiting:
            path, node = waiting.pop()
            try:
                fd = opener.directory(path)
            except (FileNotFoundError, NotADirectoryError):
                continue  # removed meanwhile
            _take(node, os.fstat(fd), os.fsencode(f"/proc/self/fd/{fd}"))
            for name in os.listdir(os.fsencode(f"/proc/self/fd/{fd}")):
                with contextlib.suppress(FileNotFoundError):
                    _child(tree, links, node, path, name, fd, waiting)
        yield tree
    finally:
        opener.close()


def _child(
    tree: UpperTree,
    links: dict[tuple[int, int], Node],
    parent: Node,
    directory: bytes,
    name: bytes,
    fd: int,
    waiting: list[tuple[bytes, Node]],
) -> None:
    assert parent.children is not None
    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    path = directory + b"/" + name if directory else name
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFCHR and status.st_rdev == 0:
        parent.children[name] = None
        return
    if kind == stat.S_IFSOCK:
        return
    if kind == stat.S_IFDIR:
        child = Node.directory()
        waiting.append((path, child))
    elif status.st_nlink > 1 and (known := links.get((status.st_dev, status.st_ino))) is not None:
        parent.children[name] = known
        return
    else:
        child = Node(0, layer=UPPER)
        if _take(child, status, os.fsencode(f"/proc/self/fd/{fd}/") + name):
            parent.children[name] = None
            return
        links[status.st_dev, status.st_ino] = child
        if kind == stat.S_IFREG:
            child.data_offset = len(tree.paths)
            tree.paths.append(path)
        elif kind == stat.S_IFLNK:
            child.link = os.readlink(name, dir_fd=fd)
    parent.children[name] = child


def _take(node: Node, status: os.stat_result, path: bytes) -> bool:
    """Fill in the attributes; true for a whiteout."""
    node.mode, node.uid, node.gid = status.st_mode, status.st_uid, status.st_gid
    node.size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    node.mtime_ns, node.rdev = status.st_mtime_ns, status.st_rdev
    if stat.S_ISLNK(status.st_mode):
        return False
    notes, node.xattrs = read_xattrs(path)
    if (owner := parse_owner(notes.get(b"rootless.owner", b""))) is not None:
        node.uid, node.gid = owner.uid, owner.gid
    if notes.get(b"opaque") == b"y":
        node.flags |= OPAQUE
    return b"whiteout" in notes and stat.S_ISREG(status.st_mode) and not status.st_size


def read_xattrs(path: bytes) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """(overlayfs' notes without their prefix, what belongs in an archive) of a file that is no link."""
    notes: dict[bytes, bytes] = {}
    kept: dict[bytes, bytes] = {}
    try:
        names = os.listxattr(path)
    except OSError:
        return notes, kept
    for text in names:
        name = os.fsencode(text)
        if not name.startswith(b"user.") and name != b"security.capability":
            continue  # labels and lists of access of this host
        with contextlib.suppress(OSError):
            value = os.getxattr(path, name)
            if name.startswith(_ESCAPED):
                kept[_NOTES + name[len(_ESCAPED) :]] = value
            elif name.startswith(_NOTES):
                notes[name[len(_NOTES) :]] = value
            else:
                kept[name] = value
    return notes, kept


# ---------------------------------------------------------------------------------------------------- compared
def prune(upper: Node, lower: Index | None, mount_points: Collection[bytes]) -> None:
    """Take away, in place, what is no change of the container's: mount points made for it (paths; empty files and
    directories that the layers below do not have), directories that only these have touched, whiteouts of nothing."""
    _prune(upper, lower, 0 if lower is not None else None, b"", mount_points)


def _prune(node: Node, lower: Index | None, row: int | None, path: bytes, mount_points: Collection[bytes]) -> bool:
    """Whether anything was taken away."""
    assert node.children is not None
    pruned = False
    for name, child in list(node.children.items()):
        below = _below(lower, row, name)
        where = path + b"/" + name if path else name
        if child is None:
            needless = below is None
        elif child.children is None:
            needless = below is None and where in mount_points and stat.S_ISREG(child.mode) and child.size == 0
        else:
            seen = below if below is not None and _is_directory(lower, below) else None
            inner = _prune(child, lower, seen, where, mount_points)
            needless = not child.children and (
                (below is None and where in mount_points)
                or (seen is not None and not child.flags & OPAQUE and _same(lower, seen, child, times=not inner))
            )
        if needless:
            del node.children[name]
            pruned = True
    return pruned


def differences(upper: Node, lower: Index | None) -> list[tuple[int, bytes]]:
    """(MODIFIED, ADDED or DELETED; absolute path), sorted by path; of a pruned tree."""
    found: list[tuple[int, bytes]] = []
    waiting: list[tuple[Node, int | None, bytes]] = [(upper, 0 if lower is not None else None, b"")]
    while waiting:
        node, row, path = waiting.pop()
        children = node.children or {}
        for name, child in children.items():
            below = _below(lower, row, name)
            where = path + b"/" + name
            if child is None:
                found.append((DELETED, where))
                continue
            found.append((ADDED if below is None else MODIFIED, where))
            if child.children is not None:
                waiting.append((child, below if _is_directory(lower, below) else None, where))
        if node.flags & OPAQUE and row is not None and lower is not None:
            gone = (name for name, _ in lower.entries(lower.row(row)) if name not in children)
            found += [(DELETED, path + b"/" + name) for name in gone]
    return sorted(found, key=lambda change: change[1])


def _below(lower: Index | None, row: int | None, name: bytes) -> int | None:
    return None if lower is None or row is None else lower.lookup(lower.row(row), name)


def _is_directory(lower: Index | None, row: int | None) -> bool:
    return lower is not None and row is not None and stat.S_ISDIR(lower.row(row).mode)


def _same(lower: Index | None, number: int, node: Node, *, times: bool) -> bool:
    assert lower is not None
    row: Row = lower.row(number)
    if times and row.mtime_ns // 10**9 != node.mtime_ns // 10**9:
        return False
    theirs = lower.xattrs(row)
    return (row.mode, row.uid, row.gid) == (node.mode, node.uid, node.gid) and theirs == node.xattrs


def sorted_children(node: Node) -> Sequence[tuple[bytes, Node | None]]:
    return sorted((node.children or {}).items())
