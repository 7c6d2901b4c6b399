"""Serves a writable union over /dev/fuse: lower layers, an upper directory in overlayfs' `userxattr` format.

Speed is not being asked: no OPEN, OPENDIR, FLUSH or CREATE, names and attributes that stay valid (nobody else writes),
READDIRPLUS. The union is `union_tree`, changes of names `union_names`, of files `union_files`; here requests become
calls of these, and nodes become answers."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fuse_overlay.device import MAX_READ, Device, Handler, init_answer
from fuse_overlay.directory_lower import DirectoryLower
from fuse_overlay.layers.store import Tree
from fuse_overlay.lower import Lower, TreeLower
from fuse_overlay.nodes import Directory, File, lower_id
from fuse_overlay.union_files import Files
from fuse_overlay.union_listings import unchanged
from fuse_overlay.union_names import Names
from fuse_overlay.union_tree import Node, UnionTree
from fuse_overlay.upper import Upper
from fuse_overlay.wire import structs as w

_WANTED = (
    w.ASYNC_READ
    | w.BIG_WRITES
    | w.DO_READDIRPLUS
    | w.ASYNC_DIO
    | w.NO_OPEN_SUPPORT
    | w.PARALLEL_DIROPS
    | w.MAX_PAGES
    | w.CACHE_SYMLINKS
    | w.NO_OPENDIR_SUPPORT
    | w.HANDLE_KILLPRIV_V2
    | w.POSIX_ACL
    | w.DONT_MASK
    | w.SETXATTR_EXT
    | w.INIT_EXT
)
_OURS_ALONE = w.EXPLICIT_INVAL_DATA | w.WRITEBACK_CACHE
_BACKGROUND = 4096  # writes of cached data: none waits behind others in the kernel, so that order is kept among all
LIVE_SECONDS = 2  # how long a layer that changes under us is believed
NAME_BYTES = 255
_DOTS = 2  # cookies 1 and 2 are . and ..


@dataclass(frozen=True)
class DirectoryLayer:
    """A directory as a layer. `live`: the machine's own, of which names at the top may be left out (`exclude`); it may
    change under us, has no whiteouts, and all of it belongs to root. `journal_fd`: a memory file, empty at first, by
    which a server that is started again knows the numbers of the one before."""

    path: str
    live: bool = False
    exclude: tuple[str, ...] = ()
    journal_fd: int = -1


@dataclass(frozen=True)
class UnionOptions:
    """`id_count`: ids from there on do not exist in the mount's user namespace. `volatile`: fsync does nothing. `acl`:
    POSIX ACLs, with which the kernel checks permissions whatever the mount's options say. `writeback`: the kernel keeps
    what is written until it is closed or synced, or for some seconds."""

    id_count: int = 1
    volatile: bool = False
    acl: bool = True
    writeback: bool = True


def serve_union(
    fuse_fd: int,
    lowers: Sequence[Tree | DirectoryLayer],
    upper: str,
    work: str,
    options: UnionOptions,
    *,
    resume: bool = False,
) -> None:
    """Serve until unmounted. `lowers`, highest first, are trees of images and directories; `upper` and `work`
    directories of one file system. `resume`: an earlier server has done the INIT.

    Raises OSError where a directory cannot be opened, or from the device."""
    device = Device(fuse_fd)
    top = Upper(upper, work, options.id_count)
    UnionServer(device, open_lowers(lowers, top.device, options.id_count), top, options).serve(resume=resume)


def open_lowers(lowers: Sequence[Tree | DirectoryLayer], upper_device: int, id_count: int) -> list[Lower]:
    """Raises OSError."""
    opened: list[Lower] = []
    devices = {upper_device: 1}  # as FIRST_UPPER_INODE has it
    for number, layer in enumerate(lowers):
        if isinstance(layer, DirectoryLayer):
            opened.append(
                DirectoryLower(
                    layer.path,
                    number,
                    devices,
                    exclude=layer.exclude,
                    squash=layer.live,
                    plain=layer.live,
                    valid_seconds=LIVE_SECONDS if layer.live else w.FOREVER,
                    journal_fd=layer.journal_fd,
                )
            )
        else:
            opened.append(TreeLower(layer, number, number << 52, id_count))
    return opened


class UnionServer:
    """Answers are written by the method of each opcode."""

    def __init__(self, device: Device, lowers: Sequence[Lower], upper: Upper, options: UnionOptions) -> None:
        self._device = device
        self._tree = UnionTree(lowers, upper)
        self._tree.renumbered = self._renumbered
        self._names = Names(self._tree, device)
        # the write-back cache takes sizes and times to be its own, so not where files change under us
        self._init_flags = _WANTED | (w.AUTO_INVAL_DATA if self._tree.live else _OURS_ALONE)
        if not options.writeback:
            self._init_flags &= ~w.WRITEBACK_CACHE
        if not options.acl:
            self._init_flags &= ~w.POSIX_ACL
        self._files = files = Files(self._tree, device, volatile=options.volatile)
        upper.clear_work()
        self._handlers: dict[int, Handler] = {
            w.LOOKUP: self._lookup,
            w.FORGET: self._forget,
            w.BATCH_FORGET: self._batch_forget,
            w.GETATTR: files.getattr,
            w.SETATTR: files.setattr,
            w.READLINK: files.readlink,
            w.SYMLINK: self._symlink,
            w.MKNOD: self._mknod,
            w.MKDIR: self._mkdir,
            w.UNLINK: self._unlink,
            w.RMDIR: self._rmdir,
            w.RENAME: self._rename,
            w.RENAME2: self._rename2,
            w.LINK: self._link,
            w.READ: files.read,
            w.STATFS: files.statfs,
            w.RELEASE: self._done,
            w.RELEASEDIR: self._done,
            w.FSYNC: files.sync,
            w.FSYNCDIR: files.sync,
            w.SETXATTR: files.setxattr,
            w.GETXATTR: files.getxattr,
            w.LISTXATTR: files.listxattr,
            w.REMOVEXATTR: files.removexattr,
            w.READDIR: self._readdir,
            w.READDIRPLUS: self._readdirplus,
            w.IOCTL: files.ioctl,
            w.FALLOCATE: files.fallocate,
            w.LSEEK: files.seek,
            w.COPY_FILE_RANGE: files.copy_range,
            w.TMPFILE: self._tmpfile,
            w.INIT: self._init,
            w.DESTROY: self._done,
        }

    def serve(self, *, resume: bool) -> None:
        os.umask(0)  # the caller's has been taken off already
        if resume:
            self._tree.recover()
        self._device.serve(self._handlers, resume=resume, write=self._files.write)

    def _renumbered(self, nodeid: int, directory_id: int) -> None:
        self._device.invalidate(nodeid)
        self._device.invalidate(directory_id, listing=True)

    def _init(self, unique: int, _nodeid: int, body: bytes) -> None:
        self._device.reply(unique, init_answer(body, self._init_flags, _BACKGROUND))

    def _done(self, unique: int, _nodeid: int, _body: bytes) -> None:
        self._device.reply(unique)

    # ------------------------------------------------------------------------------------------------ entries
    def _entry(self, unique: int, node: Node, attributes: bytes, more: bytes = b"") -> None:
        head = self._entry_head(node)
        length = w.OUT_HEADER.size + len(head) + len(attributes) + len(more)
        self._device.write_one(w.OUT_HEADER.pack(length, 0, unique) + head + attributes + more)

    def _entry_head(self, node: Node) -> bytes:
        """A fuse_entry_out without its attributes; the kernel holds the node from then on."""
        if isinstance(node, int):
            valid = self._tree.lower_of(node)[0].valid_seconds
            return w.ENTRY.pack(node, 0, valid, valid, 0, 0)
        valid = w.FOREVER
        if isinstance(node, File):
            node.lookups += 1
        elif not node.in_upper:
            valid = self._tree.valid_seconds
        return w.ENTRY.pack(node.id, 0, valid, valid, 0, 0)

    def _lookup(self, unique: int, nodeid: int, body: bytes) -> None:
        tree = self._tree
        directory = tree.directory(nodeid)
        name = w.entry_name(body)
        if len(name) > NAME_BYTES:  # the kernel lets up to 1,024 through
            raise OSError(errno.ENAMETOOLONG, "name too long")
        node = tree.find(directory, name)
        if node is None:  # a node id of 0: there is no such name, and that may be remembered
            length = w.OUT_HEADER.size + w.ENTRY.size + w.ATTR.size
            head = w.OUT_HEADER.pack(length, 0, unique) + w.ENTRY.pack(0, 0, tree.valid_seconds, 0, 0, 0)
            self._device.write_one(head + _NO_ATTRIBUTES)
            return
        self._entry(unique, node, tree.attributes(node))

    def _forget(self, _unique: int, nodeid: int, body: bytes) -> None:
        self._tree.forget(nodeid, w.FORGET_IN.unpack_from(body)[0])

    def _batch_forget(self, _unique: int, _nodeid: int, body: bytes) -> None:
        count, _ = w.BATCH_IN.unpack_from(body)
        for at in range(count):
            self._tree.forget(*w.FORGET_ONE.unpack_from(body, w.BATCH_IN.size + at * w.FORGET_ONE.size))

    # ------------------------------------------------------------------------------------------------ names
    def _mknod(self, unique: int, nodeid: int, body: bytes) -> None:
        mode, rdev, umask, _ = w.MKNOD_IN.unpack_from(body)
        file, status = self._names.make_file(
            self._tree.directory(nodeid), w.entry_name(body[w.MKNOD_IN.size :]), mode, umask, rdev
        )
        self._entry(unique, file, self._tree.file_attributes(file, status))

    def _mkdir(self, unique: int, nodeid: int, body: bytes) -> None:
        mode, umask = w.MKDIR_IN.unpack_from(body)
        parent, name = self._tree.directory(nodeid), w.entry_name(body[w.MKDIR_IN.size :])
        made = self._tree.find(parent, name) if unique & w.UNIQUE_RESEND else None
        if isinstance(made, Directory):
            directory = made
        else:
            directory, _ = self._names.make_directory(parent, name, mode & 0o7777, umask)
        self._entry(unique, directory, self._tree.attributes(directory))

    def _symlink(self, unique: int, nodeid: int, body: bytes) -> None:
        name, _, text = body[:-1].partition(b"\0")
        file, status = self._names.make_link(self._tree.directory(nodeid), w.entry_name(name + b"\0"), text)
        self._entry(unique, file, self._tree.file_attributes(file, status))

    def _tmpfile(self, unique: int, nodeid: int, body: bytes) -> None:
        _, mode, umask, _ = w.CREATE_IN.unpack_from(body)
        file, status = self._names.make_unnamed(self._tree.directory(nodeid), mode, umask)
        self._entry(unique, file, self._tree.file_attributes(file, status), w.OPEN_OUT.pack(0, 0, 0))

    def _link(self, unique: int, nodeid: int, body: bytes) -> None:
        (number,) = w.LINK_IN.unpack_from(body)
        directory = self._tree.directory(nodeid)
        name = w.entry_name(body[w.LINK_IN.size :])
        file = self._tree.writable(number)
        if unique & w.UNIQUE_RESEND and self._tree.find(directory, name) is file:
            status = self._tree.file_status(file)
        else:
            status = self._names.link(file, directory, name)
        self._entry(unique, file, self._tree.file_attributes(file, status))

    def _unlink(self, unique: int, nodeid: int, body: bytes) -> None:
        self._change(unique, self._names.unlink, self._tree.directory(nodeid), w.entry_name(body))

    def _rmdir(self, unique: int, nodeid: int, body: bytes) -> None:
        self._change(unique, self._names.rmdir, self._tree.directory(nodeid), w.entry_name(body))

    def _rename(self, unique: int, nodeid: int, body: bytes) -> None:
        (target,) = w.RENAME_IN.unpack_from(body)
        self._renamed(unique, nodeid, target, body[w.RENAME_IN.size :], 0)

    def _rename2(self, unique: int, nodeid: int, body: bytes) -> None:
        target, flags, _ = w.RENAME2_IN.unpack_from(body)
        self._renamed(unique, nodeid, target, body[w.RENAME2_IN.size :], flags)

    def _renamed(self, unique: int, nodeid: int, target: int, names: bytes, flags: int) -> None:
        name, new_name = w.entry_names(names)
        tree = self._tree
        self._change(unique, self._names.rename, tree.directory(nodeid), name, tree.directory(target), new_name, flags)

    def _change(self, unique: int, change: Callable[..., None], *arguments: object) -> None:
        """A request that is sent again because a server died may have been carried out: then its name is gone."""
        try:
            change(*arguments)
        except OSError as error:
            if error.errno != errno.ENOENT or not unique & w.UNIQUE_RESEND:
                raise
        self._device.reply(unique)

    # ------------------------------------------------------------------------------------------------ listings
    def _readdir(self, unique: int, nodeid: int, body: bytes) -> None:
        self._list(unique, nodeid, body, plus=False)

    def _readdirplus(self, unique: int, nodeid: int, body: bytes) -> None:
        self._list(unique, nodeid, body, plus=True)

    def _list(self, unique: int, nodeid: int, body: bytes, *, plus: bool) -> None:
        _, offset, size = w.READ_IN.unpack_from(body)
        directory = self._tree.directory(nodeid)
        parts: list[bytes] = []
        left = min(size, MAX_READ)
        fixed = w.DIRENT.size + (w.ENTRY.size + w.ATTR.size if plus else 0)
        for at, name, entry, attributes in self._entries(directory, offset):
            length = w.pad8(fixed + len(name))
            if length > left:
                break
            inode, mode = _INODE_AND_MODE.unpack_from(attributes)
            if plus:
                parts.append(self._entry_head(entry) if isinstance(entry, File) else entry)
                parts.append(attributes)
            parts.append(w.DIRENT.pack(inode, at, len(name), mode >> 12))
            parts.append(name.ljust(length - fixed, b"\0"))
            left -= length
        self._device.reply(unique, b"".join(parts))

    def _entries(self, directory: Directory, offset: int) -> Iterator[tuple[int, bytes, bytes | File, bytes]]:
        """(cookie, name, its fuse_entry_out or the file to make it of, attributes) behind a cookie."""
        tree = self._tree
        for at, name in enumerate((b".", b"..")[offset:], offset + 1):
            yield at, name, _NO_ENTRY, tree.attributes(directory)
        start = max(0, offset - _DOTS)
        if (only := unchanged(directory)) is not None:
            lower, place = only
            first = lower_id(lower.number, 0)
            for at, (name, found, attributes) in enumerate(lower.entries_from(place, start), start + _DOTS + 1):
                yield at, name, w.ENTRY.pack(first + found, 0, w.FOREVER, w.FOREVER, 0, 0), attributes
            return
        if directory.names is None or (tree.live and offset == 0):
            tree.listings.load(directory)
        order = directory.order
        for at in range(start, len(order)):
            known = order[at]
            node = None if known is None else tree.find(directory, known)
            if known is not None and node is not None:
                entry = node if isinstance(node, File) else self._entry_head(node)
                yield at + _DOTS + 1, known, entry, tree.attributes(node)


_NO_ATTRIBUTES = bytes(w.ATTR.size)
_NO_ENTRY = bytes(w.ENTRY.size)
_INODE_AND_MODE = struct.Struct("<Q52xI")  # of a fuse_attr
