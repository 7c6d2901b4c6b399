"""The tree a writable union shows: which layer a name comes from, what its node is, and what has to be copied up.

Used by the request handlers (`union_names`, `union_files`). All methods raise OSError with the errno for the caller."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence

from fuse_overlay import copyup
from fuse_overlay.attributes import owned_by, packed, with_links
from fuse_overlay.lower import Lower
from fuse_overlay.nodes import IN_UPPER, LAYER_SHIFT, UPPER_ID, Child, Directory, File, InUpper, lower_id, split_id
from fuse_overlay.union import marks
from fuse_overlay.union.merge import WHITED_OUT
from fuse_overlay.union_listings import Listings
from fuse_overlay.upper import Upper
from fuse_overlay.wire import structs as w

FIRST_UPPER_INODE = 1 << 33  # lower trees number theirs from 1
WHOLE = 1 << 62
UNKNOWN = 1 << 62  # times the kernel has looked a node up, in the days of a server before this one
Node = int | Directory | File  # an int is a lower's node id: anything nobody has changed but a directory


class UnionTree:
    """`lowers` are in order, highest first, numbered as they stand."""

    def __init__(self, lowers: Sequence[Lower], upper: Upper) -> None:
        self.lowers = lowers
        self.upper = upper
        self.valid_seconds = min((lower.valid_seconds for lower in lowers), default=w.FOREVER)
        self.live = self.valid_seconds < w.FOREVER  # a layer changes under us: listings do not stay true
        self.root = Directory(w.ROOT_ID, None, b"", _roots(lowers))
        self.root.in_upper = True
        self.nodes: dict[int, Directory | File] = {w.ROOT_ID: self.root}
        self._recovering = False
        self.listings = Listings(upper)
        self.files: dict[int, File] = {}  # inode in the upper -> file
        self.renumbered: Callable[[int, int], None] | None = None  # told a node and its directory: st_ino has changed

    # ------------------------------------------------------------------------------------------------ nodes
    def node(self, nodeid: int) -> Node:
        """Raises OSError (ENOENT: no such node)."""
        known = self.nodes.get(nodeid)
        if known is not None:
            return known
        lower, place = self.lower_of(nodeid)
        if stat.S_ISDIR(lower.mode(place)):
            return self._enter(nodeid, lower, place)
        return nodeid

    def directory(self, nodeid: int) -> Directory:
        known = self.nodes.get(nodeid)
        if isinstance(known, Directory):
            return known
        node = self.node(nodeid)
        if not isinstance(node, Directory):
            raise OSError(errno.ENOTDIR, "not a directory")
        return node

    def lower_of(self, nodeid: int) -> tuple[Lower, int]:
        layer, place = split_id(nodeid)
        if layer >= len(self.lowers) or place < 0:
            raise OSError(errno.ESTALE, "unknown node")
        return self.lowers[layer], place

    def _enter(self, nodeid: int, lower: Lower, place: int) -> Directory:
        """A directory of a lower that the kernel knows and we have no record of."""
        found = self._directory_at(lower, place)
        if found is not None and found.id == nodeid:
            return found
        name = lower.parent(place)[1] if place else b""
        gone = Directory(nodeid, self.root, name, [(lower, place)])
        gone.gone, gone.final = True, with_links(lower.attributes(place), 1 << 32)
        self.nodes[nodeid] = gone
        return gone

    def recover(self) -> None:
        """Know again what the kernel may know: every file of the upper, as if it had been looked up."""
        self._recovering = True
        waiting = [self.root]
        while waiting:
            directory = waiting.pop()
            for name, is_whiteout in list(self.upper.scan(directory)):
                status = None if is_whiteout else self.upper.status(directory, name)
                if status is None:
                    continue
                node = self.upper_node(directory, name, status)
                if isinstance(node, Directory):
                    waiting.append(node)
                    continue
                node.lookups = UNKNOWN
                for lower, place in directory.lowers:
                    covered = lower.find(place, name)
                    if covered is not None:
                        if covered != WHITED_OUT:
                            self._answer_for(lower, covered, node)
                        break

        self._recovering = False

    def _answer_for(self, lower: Lower, place: int, file: File) -> None:
        """A copy that could not be marked (of a link, or of one of a file's names) has the number it had below."""
        mode = lower.mode(place)
        marked = stat.S_ISREG(mode) and w.ATTR.unpack(lower.attributes(place))[10] <= 1
        if not marked and not stat.S_ISDIR(mode):
            self.nodes.setdefault(lower_id(lower.number, place), file)

    def _directory_at(self, lower: Lower, place: int) -> Directory | None:
        """What a lower's directory is merged into; None where its name is something else by now."""
        if place == 0:
            return self.root
        known = self.nodes.get(lower_id(lower.number, place))
        if isinstance(known, Directory):
            return None if known.gone else known
        above, name = lower.parent(place)
        parent = self._directory_at(lower, above)
        found = None if parent is None else self.find(parent, name)
        return found if isinstance(found, Directory) and (lower, place) in found.lowers else None

    # ------------------------------------------------------------------------------------------------ names
    def find(self, directory: Directory, name: bytes) -> Node | None:
        """What a name is; None if there is nothing."""
        names = directory.names
        if names is not None and not (self.live and directory.lowers):
            child: Child | None = names.get(name)
            if child is None or not isinstance(child, (int, InUpper)):
                return child
            if isinstance(child, InUpper):
                status = self.upper.status(directory, name)
                return None if status is None else self.upper_node(directory, name, status)
            if child in self.nodes:
                return self.nodes[child]
            return self._lower_node(directory, name, *self.lower_of(child))
        if directory.in_upper:
            status = self.upper.status(directory, name)
            if status is not None:
                if self.upper.is_whiteout(directory, name, status):
                    return None
                return self.upper_node(directory, name, status)
        for lower, place in directory.lowers:
            found = lower.find(place, name)
            if found is not None:
                return None if found == WHITED_OUT else self._lower_node(directory, name, lower, found)
        return None

    def _lower_node(self, directory: Directory, name: bytes, lower: Lower, place: int) -> Node:
        mode = lower.mode(place)
        number = lower_id(lower.number, place)
        if not stat.S_ISDIR(mode):
            return number
        known = self.nodes.get(number)
        if isinstance(known, Directory) and not known.gone:
            return known
        made = Directory(number, directory, name, self._merged(directory, name))
        self.nodes[number] = made
        directory_names = directory.names
        if directory_names is not None:
            directory_names[name] = made
        return made

    def _merged(self, directory: Directory, name: bytes) -> list[tuple[Lower, int]]:
        """The lower directories that a name is merged from."""
        found: list[tuple[Lower, int]] = []
        for lower, place in directory.lowers:
            at = lower.find(place, name)
            if at is None:
                continue
            if at == WHITED_OUT or not stat.S_ISDIR(lower.mode(at)):
                break
            found.append((lower, at))
            if lower.opaque(at):
                break
        return found

    def in_lowers(self, directory: Directory, name: bytes) -> bool:
        """Whether a name would show from below if the upper said nothing."""
        for lower, place in directory.lowers:
            found = lower.find(place, name)
            if found is not None:
                return found != WHITED_OUT
        return False

    def upper_node(self, directory: Directory, name: bytes, status: os.stat_result) -> Directory | File:
        """The node of a name that is in the upper and no whiteout."""
        if stat.S_ISDIR(status.st_mode):
            return self._upper_directory(directory, name, status)
        file = self.files.get(status.st_ino)
        if file is None:
            file = self._file(directory, name, status)
        if (directory, name) not in file.places:
            file.places.append((directory, name))
        names = directory.names
        if names is not None:
            directory.put(name, file)
        return file

    def _file(self, directory: Directory, name: bytes, status: os.stat_result) -> File:
        """A file of the upper that is new to us. One that was copied up is shown with the number it had below."""
        file = self.new_file(status)
        if not stat.S_ISREG(status.st_mode):
            return file
        value = self.upper.xattr(self.upper.directory_fd(directory), name, marks.ORIGIN)
        origin = marks.parse_origin(value) if value else None
        layer = origin.node >> LAYER_SHIFT if origin else len(self.lowers)
        if origin is None or layer >= len(self.lowers) or self.lowers[layer].identity != origin.layer:
            return file
        file.shown = origin.inode
        if self._recovering and self.lowers[layer].session == origin.session and origin.node not in self.nodes:
            del self.nodes[file.id]
            file.id = origin.node
            self.nodes[file.id] = file
        return file

    def new_file(self, status: os.stat_result) -> File:
        inode = status.st_ino
        file = File(UPPER_ID | inode, inode, status.st_mode, inode + FIRST_UPPER_INODE)
        before = self.nodes.get(file.id)  # removed, its inode is free again; the kernel has yet to forget it
        if before is not None:
            file.lookups = before.lookups if isinstance(before, File) else UNKNOWN
        self.nodes[file.id] = self.files[inode] = file
        return file

    def _upper_directory(self, directory: Directory, name: bytes, status: os.stat_result) -> Directory:
        lowers = self._merged(directory, name) if directory.lowers else []
        if lowers:
            fd = self.upper.directory_fd(directory)
            if self.upper.xattr(fd, name, marks.OPAQUE) == b"y":
                lowers = []
        number = lower_id(lowers[0][0].number, lowers[0][1]) if lowers else UPPER_ID | status.st_ino
        known = self.nodes.get(number)
        if isinstance(known, Directory) and not known.gone:
            known.in_upper = True
            return known
        made = Directory(number, directory, name, lowers)
        made.in_upper = True
        self.nodes[number] = made
        if directory.names is not None:
            directory.put(name, made)
        return made

    def new_directory(self, directory: Directory, name: bytes, status: os.stat_result) -> Directory:
        """One just made, empty, nothing below it."""
        made = Directory(UPPER_ID | status.st_ino, directory, name, [])
        made.in_upper = True
        made.names = {}
        self.listings.keep(made)
        self.nodes[made.id] = made
        directory.put(name, made)
        return made

    # ------------------------------------------------------------------------------------------------ attributes
    def attributes(self, node: Node) -> bytes:
        """A fuse_attr."""
        if isinstance(node, int):
            lower, place = self.lower_of(node)
            return lower.attributes(place)
        if isinstance(node, File):
            if node.final:
                return node.final
            status = self.file_status(node)
            waits = node.places and node.places[0][0].id == 0  # in the work directory: that name does not count
            return self.file_attributes(node, status, status.st_nlink - 1 if waits else -1)
        return node.final or self._directory_attributes(node)

    def file_attributes(self, file: File, status: os.stat_result, links: int = -1) -> bytes:
        """A fuse_attr of a file of the upper."""
        attributes = packed(file.shown, status, links)
        if not self.upper.shows_owners or not stat.S_ISREG(status.st_mode):
            return attributes
        fd, name = (file.fd, None) if file.fd >= 0 else self.upper.place(file)
        return owned_by(attributes, self.upper.owner(fd, name, status))

    def file_status(self, file: File) -> os.stat_result:
        if file.fd >= 0:
            return os.fstat(file.fd)
        fd, name = self.upper.place(file)
        return os.stat(name, dir_fd=fd, follow_symlinks=False)

    def _directory_attributes(self, directory: Directory) -> bytes:
        if not directory.in_upper:
            lower, place = directory.lowers[0]
            return lower.attributes(place)
        s = os.fstat(directory.fd if directory.fd >= 0 else self.upper.directory_fd(directory))
        if not directory.lowers:
            attributes = packed(s.st_ino + FIRST_UPPER_INODE, s)
        else:
            lower, place = directory.lowers[0]
            attributes = packed(lower.inode(place), s, 1)  # 1 link, as overlayfs says of what it has merged
        if not self.upper.shows_owners:
            return attributes
        return owned_by(attributes, self.upper.owner(self.upper.directory_fd(directory), None, s))

    # ------------------------------------------------------------------------------------------------ copy-up
    def upper_fd(self, directory: Directory) -> int:
        """A directory's descriptor in the upper; it is made there, with its parents, if need be."""
        if directory.fd >= 0:
            return directory.fd
        if directory.gone:
            raise OSError(errno.ENOENT, "the directory was removed")
        if not directory.in_upper:
            assert directory.parent is not None
            above = self.upper_fd(directory.parent)
            lower, place = directory.lowers[0]
            copyup.directory(self.upper, lower, place, above, directory.name)
            directory.in_upper = True
        return self.upper.directory_fd(directory)

    def writable(self, nodeid: int, size: int = WHOLE) -> File:
        """A non-directory as a file of the upper, copied up (the first `size` bytes) if need be."""
        node = self.nodes.get(nodeid)
        if isinstance(node, File):
            return node if node.inode else self._copy_up_unlinked(node)
        if isinstance(node, Directory) or isinstance(self.node(nodeid), Directory):
            raise OSError(errno.EISDIR, "a directory")
        lower, place = self.lower_of(nodeid)
        above, name = lower.parent(place)
        parent = self._directory_at(lower, above)
        if parent is None or self.find(parent, name) != nodeid:  # unlinked under a server before this one
            return self._copy_up_unlinked(self.orphan(nodeid))
        return self.copy_up(parent, name, nodeid, size)

    def copy_up(self, directory: Directory, name: bytes, nodeid: int, size: int = WHOLE) -> File:
        """A lower's file under its name, up to `size` bytes of it."""
        lower, place = self.lower_of(nodeid)
        above = self.upper_fd(directory)
        status, is_same = copyup.file(self.upper, lower, place, above, name, nodeid, size)
        shown = lower.inode(place) if is_same else status.st_ino + FIRST_UPPER_INODE
        file = File(nodeid, status.st_ino, status.st_mode, shown)
        file.places.append((directory, name))
        self.nodes[nodeid] = self.files[status.st_ino] = file
        directory.put(name, file)
        if not is_same and self.renumbered is not None:
            self.renumbered(nodeid, directory.id)
        return file

    def orphan(self, nodeid: int) -> File:
        """A lower's file has lost its name; who has it open goes on."""
        lower, place = self.lower_of(nodeid)
        file = File(nodeid, 0, lower.mode(place), lower.inode(place))
        file.final = with_links(lower.attributes(place), 1)
        self.nodes[nodeid] = file
        return file

    def _copy_up_unlinked(self, file: File) -> File:
        fd = copyup.unlinked(self.upper, *self.lower_of(file.id))
        file.inode = os.fstat(fd).st_ino
        file.final = b""
        self.upper.keep_file(file, fd)
        self.files[file.inode] = file
        return file

    def forget(self, nodeid: int, lookups: int) -> None:
        """The kernel has let go of a node."""
        node = self.nodes.get(nodeid)
        if node is None or nodeid == w.ROOT_ID:
            return
        if isinstance(node, File):
            node.lookups -= lookups
            counted = nodeid & UPPER_ID and node.lookups < UNKNOWN >> 1  # else nobody knows how often it was looked up
            unlinked = not node.places or node.places[0][0].id == 0
            if node.lookups <= 0 if counted else unlinked:
                self.release(node)
        elif node.gone:
            self.upper.close_directory(node)
            del self.nodes[nodeid]

    def release(self, file: File) -> None:
        """Forget a file altogether; its data is gone with its last name."""
        self.upper.close_file(file)
        del self.nodes[file.id]
        if self.files.get(file.inode) is file:
            del self.files[file.inode]
        for directory, name in file.places:
            if directory.id == 0:
                os.unlink(name, dir_fd=self.upper.work)
            elif directory.names is not None and directory.names.get(name) is file:
                directory.names[name] = IN_UPPER


def _roots(lowers: Sequence[Lower]) -> list[tuple[Lower, int]]:
    found: list[tuple[Lower, int]] = []
    for lower in lowers:
        found.append((lower, 0))
        if lower.opaque(0):
            break
    return found
