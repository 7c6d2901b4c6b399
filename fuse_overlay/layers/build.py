"""Entries -> tree of nodes, and layers -> one tree. The rules of image layers (OCI image-spec, layer.md): a later
member of a name replaces an earlier one, a directory only takes the new attributes; whiteouts hide what is below.

A member below something that is not a directory replaces it by a directory: links inside an archive are never followed.

Whiteouts come as `.wh.NAME` and `.wh..wh..opq` (image-spec), and as overlayfs has them in its upper directory, where an
archive was made of one: a character device 0/0, an empty file with the xattr overlay.whiteout, a directory with the
xattr overlay.opaque, or fuseoverlayfs.opaque. They concern the layers below only, wherever in the archive they stand.
Xattrs of either's own are not shown: one on top of us would believe them. Nor are aufs' own files (`.wh..wh.plnk` and
what is below), but names that are hard links to them are.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping

from fuse_overlay.errors import LayerError
from fuse_overlay.layers.entry import AUFS_PREFIX, OPAQUE_NAME, WHITEOUT_PREFIX, Entry, shown
from fuse_overlay.layers.index import OPAQUE, SPARSE, Node
from fuse_overlay.layers.indexing import pack_pieces

_OVERLAY = b"user.overlay.", b"trusted.overlay."
_PRIVATE = (*_OVERLAY, b"user.fuseoverlayfs.")
_OPAQUE_NAMES = [prefix + b"opaque" for prefix in _PRIVATE]


class LayerTree:
    """One layer's tree, made member by member."""

    def __init__(self) -> None:
        self.root = Node.directory()
        self.members = 0
        self.merged = True  # until a whiteout or a hard link to a lower layer is seen
        self._last: tuple[bytes, Node] = b"", self.root
        self._aufs: dict[bytes, Node] = {}  # path -> a file of aufs' own

    def add(self, entry: Entry) -> None:
        """Raises LayerError."""
        self.members += 1
        if not entry.path:
            self._take(self.root, entry)
            return
        parent_path, _, name = entry.path.rpartition(b"/")
        if _is_of_aufs(parent_path) or (_is_of_aufs(name) and name != OPAQUE_NAME):
            if not entry.is_directory:
                self._aufs[entry.path] = self._file(entry)
            return
        parent = self._directory(parent_path)
        assert parent.children is not None
        if name == OPAQUE_NAME:
            parent.flags |= OPAQUE
            self.merged = False
            return
        if name.startswith(WHITEOUT_PREFIX):
            if hidden := name[len(WHITEOUT_PREFIX) :]:
                self._white_out(parent, hidden)
            return
        if _is_whiteout(entry):
            self._white_out(parent, name)
            return
        self._place(parent, name, entry)

    def _white_out(self, parent: Node, name: bytes) -> None:
        """Hide what the layers below have under a name."""
        assert parent.children is not None
        self.merged = False
        present = parent.children.get(name)
        if present is None:
            parent.children[name] = None
        elif present.children is not None:
            present.flags |= OPAQUE

    def _new_directory(self, parent: Node, name: bytes) -> Node:
        """In place of what is there; opaque where that is a whiteout."""
        assert parent.children is not None
        made = Node.directory()
        if name in parent.children and parent.children[name] is None:
            made.flags |= OPAQUE
        parent.children[name] = made
        return made

    def _place(self, parent: Node, name: bytes, entry: Entry) -> None:
        assert parent.children is not None
        present = parent.children.get(name)
        if entry.is_directory:
            if present is None or present.children is None:
                present = self._new_directory(parent, name)
                self._last = b"", self.root
            self._take(present, entry)
            return
        if present is not None and present.children is not None:
            self._last = b"", self.root
        parent.children[name] = self._file(entry)

    def _take(self, directory: Node, entry: Entry) -> None:
        """What a member says of a directory."""
        directory.mode, directory.uid, directory.gid = entry.mode, entry.uid, entry.gid
        directory.mtime_ns, directory.xattrs = entry.mtime_ns, _shown_xattrs(entry)
        if entry.xattrs and any(entry.xattrs.get(name) == b"y" for name in _OPAQUE_NAMES):
            directory.flags |= OPAQUE
            self.merged = False

    def _file(self, entry: Entry) -> Node:
        if not entry.hard_link:
            return _node(entry)
        target = self._aufs.get(entry.link) or find(self.root, entry.link)
        if target is not None:
            if target.children is not None:
                raise LayerError(f"hard link {shown(entry.path)} to a directory {shown(entry.link)}")
            return target
        self.merged = False
        return Node(0, link=entry.link)

    def _directory(self, path: bytes) -> Node:
        """The directory at `path`, made where missing. Members of one directory mostly follow each other."""
        if self._last[0] == path:
            return self._last[1]
        node = self.root
        for part in path.split(b"/") if path else ():
            assert node.children is not None
            child = node.children.get(part)
            if child is None or child.children is None:
                child = self._new_directory(node, part)
            node = child
        self._last = path, node
        return node


def merge(lower: Node, upper: Node, *, lowest: bool = True) -> None:
    """Put an upper layer's tree on the merged tree of those below, in place. Raises LayerError.

    Not `lowest`: there are further layers below `lower`, so whiteouts and opaque directories are kept."""
    links: dict[int, Node] = {}
    if upper.flags & OPAQUE:
        assert lower.children is not None
        lower.children.clear()
        if not lowest:
            lower.flags |= OPAQUE
    waiting = [(lower, upper)]
    unresolved: list[tuple[Node, bytes, Node]] = []
    while waiting:
        below, above = waiting.pop()
        assert below.children is not None
        assert above.children is not None
        for name, child in above.children.items():
            if child is None:
                below.children.pop(name, None)
                if not lowest:
                    below.children[name] = None
                continue
            hides = name in below.children  # whatever it is, it hides what the further layers have
            present = below.children.get(name)
            if child.children is None:
                if child.mode == 0:
                    unresolved.append((below, name, child))
                else:
                    below.children[name] = child
            elif present is None or present.children is None or child.flags & OPAQUE:
                below.children[name] = made = _bare(child)
                if not lowest and (hides or child.flags & OPAQUE):
                    made.flags |= OPAQUE
                waiting.append((made, child))
            else:
                _copy_attributes(present, child)
                waiting.append((present, child))
    for parent, name, child in unresolved:
        assert parent.children is not None
        target = links.get(id(child)) or find(lower, child.link)
        if target is None or target.children is not None:
            raise LayerError(f"hard link {shown(name)} to {shown(child.link)}, which is in no layer")
        links[id(child)] = parent.children[name] = target
    _copy_attributes(lower, upper)


def find(root: Node, path: bytes) -> Node | None:
    """The node at a path; links are not followed."""
    node: Node | None = root
    for part in path.split(b"/") if path else ():
        if node is None or node.children is None:
            return None
        node = node.children.get(part)
    return node


def _node(entry: Entry) -> Node:
    made = Node(
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        size=len(entry.link) if stat.S_ISLNK(entry.mode) else entry.size,
        mtime_ns=entry.mtime_ns,
        rdev=entry.rdev,
        data_offset=entry.data_offset,
        link=entry.link,
        xattrs=_shown_xattrs(entry),
    )
    if entry.pieces is not None:
        made.link = pack_pieces(entry.pieces)
        made.flags = SPARSE
    return made


def _is_of_aufs(path: bytes) -> bool:
    return path.startswith(AUFS_PREFIX) or b"/" + AUFS_PREFIX in path


def _is_whiteout(entry: Entry) -> bool:
    if stat.S_ISCHR(entry.mode):
        return entry.rdev == 0
    return bool(entry.xattrs) and not entry.size and any(prefix + b"whiteout" in entry.xattrs for prefix in _OVERLAY)


def _shown_xattrs(entry: Entry) -> Mapping[bytes, bytes]:
    if not entry.xattrs:
        return entry.xattrs
    return {name: value for name, value in entry.xattrs.items() if not name.startswith(_PRIVATE)}


def _copy_attributes(node: Node, other: Node) -> None:
    node.mode, node.uid, node.gid = other.mode, other.uid, other.gid
    node.mtime_ns, node.xattrs = other.mtime_ns, other.xattrs


def _bare(node: Node) -> Node:
    made = Node.directory()
    _copy_attributes(made, node)
    made.layer = node.layer
    return made
