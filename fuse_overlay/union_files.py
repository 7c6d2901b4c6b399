"""Requests of a writable union about one file or directory: contents, attributes, xattrs. What changes it copies it up
first."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat

from fuse_overlay.device import MAX_READ, Device, Refused
from fuse_overlay.lower import Lower
from fuse_overlay.nodes import Directory, File
from fuse_overlay.union import marks
from fuse_overlay.union_names import DEFAULT_ACL
from fuse_overlay.union_tree import UnionTree
from fuse_overlay.upper import NOW, set_times
from fuse_overlay.wire import structs as w

_ASKED_OFTEN = (b"security.capability", b"system.posix_acl_access")  # before a first write, and by chmod
_FSYNC_DATA = 1
_SETTING_FLAGS = (0x40086602, 0x401C5820)  # FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR: include/uapi/linux/fs.h
_FLAG_IOCTLS = (0x80086601, 0x801C581F, *_SETTING_FLAGS)
_IOCTL_BYTES = 28  # struct fsxattr, the larger of the two
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Files:
    """Methods are handlers: they answer themselves, or raise OSError. `volatile`: nothing is ever synced."""

    def __init__(self, tree: UnionTree, device: Device, *, volatile: bool) -> None:
        self._tree = tree
        self._upper = tree.upper
        self._device = device
        self._volatile = volatile
        self._buffer = bytearray(w.OUT_HEADER.size + MAX_READ)
        self._answer = memoryview(self._buffer)

    # ------------------------------------------------------------------------------------------------ contents
    def read(self, unique: int, nodeid: int, body: bytes) -> None:
        _, offset, size = w.READ_IN.unpack_from(body)
        head = w.OUT_HEADER.size
        view = self._answer[head : head + min(size, MAX_READ)]
        node = self._tree.nodes.get(nodeid)
        if node is None or (isinstance(node, File) and not node.inode):
            lower, place = self._tree.lower_of(nodeid)
            if not stat.S_ISREG(lower.mode(place)):
                raise OSError(errno.EISDIR, "not a file")
            length = head + lower.read_into(place, view, offset)
        elif isinstance(node, File):
            length = head + os.preadv(self._upper.file_fd(node), [view], offset)
        else:
            raise OSError(errno.EISDIR, "a directory")
        w.OUT_HEADER.pack_into(self._buffer, 0, length, 0, unique)
        self._device.write_one(self._answer[:length])

    def write(self, unique: int, nodeid: int, body: memoryview) -> None:
        _, offset, size, _, _, _, _ = w.WRITE_IN.unpack_from(body)
        data = body[w.WRITE_IN.size : w.WRITE_IN.size + size]
        fd = self._upper.file_fd(self._tree.writable(nodeid))
        written = os.pwrite(fd, data, offset)
        self._device.reply(unique, w.WRITE_OUT.pack(written, 0))

    def fallocate(self, unique: int, nodeid: int, body: bytes) -> None:
        _, offset, length, mode, _ = w.FALLOCATE_IN.unpack_from(body)
        fd = self._upper.file_fd(self._tree.writable(nodeid))
        if _libc.fallocate(fd, mode, offset, length):
            raise OSError(ctypes.get_errno(), "fallocate")
        self._device.reply(unique)

    def seek(self, unique: int, nodeid: int, body: bytes) -> None:
        _, offset, whence, _ = w.LSEEK_IN.unpack_from(body)
        node = self._tree.node(nodeid)
        if isinstance(node, File) and node.inode:
            found = os.lseek(self._upper.file_fd(node), offset, whence)
        else:
            found = _sought(*self._tree.lower_of(nodeid), offset, whence)
        self._device.reply(unique, w.LSEEK_OUT.pack(found))

    def copy_range(self, unique: int, nodeid: int, body: bytes) -> None:
        _, offset, target_id, _, target_offset, length, _ = w.COPY_IN.unpack_from(body)
        target = self._tree.writable(target_id)
        node = self._tree.node(nodeid)
        if isinstance(node, File) and node.inode:
            source, at = self._upper.file_fd(node), offset
        else:
            lower, place = self._tree.lower_of(nodeid)
            source, at, length = next(iter(lower.pieces(place, offset, length)), (-1, 0, 0))
            if at < 0:
                raise OSError(errno.EOPNOTSUPP, "a hole")  # the kernel copies itself then
        done = 0
        if length:
            fd = self._upper.file_fd(target)
            done = os.copy_file_range(source, fd, min(length, 1 << 30), at, target_offset)
        self._device.reply(unique, w.WRITE_OUT.pack(done, 0))

    def sync(self, unique: int, nodeid: int, body: bytes) -> None:
        node = None if self._volatile else self._tree.nodes.get(nodeid)
        if isinstance(node, File) and node.inode and stat.S_ISREG(node.mode):
            (os.fdatasync if w.FSYNC_IN.unpack_from(body)[1] & _FSYNC_DATA else os.fsync)(self._upper.file_fd(node))
        elif isinstance(node, Directory) and node.in_upper and not node.gone:
            os.fsync(self._upper.directory_fd(node))
        self._device.reply(unique)

    # ------------------------------------------------------------------------------------------------ attributes
    def getattr(self, unique: int, nodeid: int, _body: bytes) -> None:
        tree = self._tree
        node = tree.nodes.get(nodeid)
        attributes = tree.attributes(nodeid if node is None else node)
        length = w.OUT_HEADER.size + w.ATTR_OUT.size + len(attributes)
        self._device.write_one(
            w.OUT_HEADER.pack(length, 0, unique) + w.ATTR_OUT.pack(self._valid(nodeid, node), 0, 0) + attributes
        )

    def _valid(self, nodeid: int, node: Directory | File | None) -> int:
        if node is None or (isinstance(node, Directory) and not node.in_upper):
            return self._tree.valid_seconds
        return w.FOREVER

    def setattr(self, unique: int, nodeid: int, body: bytes) -> None:
        fields = w.SETATTR_IN.unpack_from(body)
        valid, size, mode, uid, gid = fields[0], fields[3], fields[11], fields[13], fields[14]
        tree = self._tree
        node = tree.node(nodeid)
        if isinstance(node, Directory):
            if node.gone:
                raise OSError(errno.ENOENT, "the directory was removed")
            fd, name = tree.upper_fd(node), None
        else:
            fd, name = self._handle(tree.writable(nodeid, size) if valid & w.FATTR_SIZE else tree.writable(nodeid))
            if valid & w.FATTR_SIZE:
                os.ftruncate(fd, size)
        if valid & (w.FATTR_UID | w.FATTR_GID):
            owner = uid if valid & w.FATTR_UID else -1, gid if valid & w.FATTR_GID else -1
            self._upper.give(fd, name, *owner, bare=isinstance(node, File) and node.bare)
        if valid & w.FATTR_MODE:
            if name is None:
                os.fchmod(fd, mode & 0o7777)
            else:
                os.chmod(name, mode & 0o7777, dir_fd=fd)
        if valid & (w.FATTR_ATIME | w.FATTR_MTIME):
            set_times(
                fd,
                name,
                _moment(valid, w.FATTR_ATIME, w.FATTR_ATIME_NOW, fields[5], fields[8]),
                _moment(valid, w.FATTR_MTIME, w.FATTR_MTIME_NOW, fields[6], fields[9]),
            )
        self._device.reply(unique, w.ATTR_OUT.pack(w.FOREVER, 0, 0) + tree.attributes(tree.node(nodeid)))

    def _handle(self, file: File) -> tuple[int, bytes | None]:
        """A descriptor, or that of a directory and a name in it for what cannot be opened."""
        if file.fd >= 0 or stat.S_ISREG(file.mode):
            return self._upper.file_fd(file), None
        return self._upper.place(file)

    def readlink(self, unique: int, nodeid: int, _body: bytes) -> None:
        node = self._tree.node(nodeid)
        if isinstance(node, File) and node.inode:
            fd, name = (node.held, b"") if node.held >= 0 else self._upper.place(node)
            self._device.reply(unique, os.readlink(name, dir_fd=fd))
            return
        lower, place = self._tree.lower_of(nodeid)
        if not stat.S_ISLNK(lower.mode(place)):
            raise OSError(errno.EINVAL, "no link")
        self._device.reply(unique, lower.link(place))

    def statfs(self, unique: int, _nodeid: int, _body: bytes) -> None:
        s = os.fstatvfs(self._upper.root)
        self._device.reply(
            unique,
            w.STATFS_OUT.pack(
                s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, s.f_bsize, s.f_namemax, s.f_frsize, 0
            ),
        )

    def ioctl(self, unique: int, nodeid: int, body: bytes) -> None:
        """The flags of lsattr and chattr; nothing else is any file system's business."""
        _, _, command, _, in_size, out_size = w.IOCTL_IN.unpack_from(body)
        if command not in _FLAG_IOCTLS:
            raise OSError(errno.ENOTTY, "unknown ioctl")
        if max(in_size, out_size) > _IOCTL_BYTES:
            raise OSError(errno.EINVAL, "more than the flags")
        node = self._tree.node(nodeid)
        writes = command in _SETTING_FLAGS
        if isinstance(node, Directory):
            fd = self._tree.upper_fd(node) if writes or node.in_upper else -1
        elif writes or (isinstance(node, File) and node.inode):
            fd = self._upper.file_fd(self._tree.writable(nodeid))
        else:
            fd = -1
        data = bytearray(body[w.IOCTL_IN.size : w.IOCTL_IN.size + in_size].ljust(out_size, b"\0"))
        if fd >= 0:
            fcntl.ioctl(fd, command, data, True)
        self._device.reply(unique, w.IOCTL_OUT.pack(0, 0, 0, 0) + bytes(data[:out_size]))

    # ------------------------------------------------------------------------------------------------ xattrs
    def getxattr(self, unique: int, nodeid: int, body: bytes) -> None:
        size, _ = w.XATTR_IN.unpack_from(body)
        name = w.name_of(body[w.XATTR_IN.size :])
        if name in _ASKED_OFTEN:
            node = self._tree.nodes.get(nodeid)
            if isinstance(node, File) and node.bare:
                raise Refused(errno.ENODATA)
        where = self._xattrs_of(nodeid)
        stored = name if isinstance(where, dict) else marks.stored_name(name)
        if stored is None:
            raise OSError(errno.ENODATA, "ours")
        if isinstance(where, dict):
            value = where.get(name)
            if value is None or marks.is_hidden(name):
                raise OSError(errno.ENODATA, "no such xattr")
        else:
            value = os.getxattr(where, stored, follow_symlinks=isinstance(where, int))
        self._sized(unique, size, value)

    def listxattr(self, unique: int, nodeid: int, body: bytes) -> None:
        size, _ = w.XATTR_IN.unpack_from(body)
        where = self._xattrs_of(nodeid)
        if isinstance(where, dict):
            names: list[bytes | None] = [None if marks.is_hidden(name) else name for name in where]
        else:
            listed = os.listxattr(where, follow_symlinks=isinstance(where, int))
            names = [marks.shown_name(os.fsencode(name)) for name in listed]
        self._sized(unique, size, b"".join(name + b"\0" for name in names if name is not None))

    def _xattrs_of(self, nodeid: int) -> dict[bytes, bytes] | int | bytes:
        """A lower's, or a descriptor, or a path of what cannot be opened."""
        node = self._tree.node(nodeid)
        if isinstance(node, Directory):
            if node.gone:
                return {}
            if node.in_upper:
                return self._upper.directory_fd(node)
        elif isinstance(node, File):
            if node.fd >= 0:
                return node.fd
            if node.inode:
                return b"/proc/self/fd/%d/%s" % self._upper.place(node) if node.places else {}
        lower, place = self._tree.lower_of(nodeid if isinstance(node, (int, File)) else node.id)
        return lower.xattrs(place)

    def setxattr(self, unique: int, nodeid: int, body: bytes) -> None:
        size, flags, more, _ = w.SETXATTR_IN.unpack_from(body)
        # a kernel before 5.12 has the name where others have `more`; no name begins with these bytes
        extended = more <= w.SETXATTR_ACL_KILL_SGID
        name, _, value = body[w.SETXATTR_IN.size if extended else w.XATTR_IN.size :].partition(b"\0")
        stored = marks.stored_name(name)
        if stored is None:
            raise OSError(errno.EPERM, "ours")
        where = self._writable_xattrs(nodeid)
        os.setxattr(where, stored, value[:size], flags, follow_symlinks=isinstance(where, int))
        if extended and more & w.SETXATTR_ACL_KILL_SGID:
            mode = os.stat(where).st_mode
            if mode & stat.S_ISGID:
                os.chmod(where, stat.S_IMODE(mode & ~stat.S_ISGID))
        self._acl_changed(nodeid, name)
        self._device.reply(unique)

    def _acl_changed(self, nodeid: int, name: bytes) -> None:
        node = self._tree.nodes.get(nodeid)
        if isinstance(node, Directory) and name == DEFAULT_ACL:
            node.default_acl = None

    def removexattr(self, unique: int, nodeid: int, body: bytes) -> None:
        name = w.name_of(body)
        stored = marks.stored_name(name)
        if stored is None:
            raise OSError(errno.ENODATA, "ours")
        present = self._xattrs_of(nodeid)
        if isinstance(present, dict) and name not in present and not name.startswith(b"system."):
            raise OSError(errno.ENODATA, "a lower's has none")  # and is not copied up for that
        where = self._writable_xattrs(nodeid)
        os.removexattr(where, stored, follow_symlinks=isinstance(where, int))
        self._acl_changed(nodeid, name)
        self._device.reply(unique)

    def _writable_xattrs(self, nodeid: int) -> int | bytes:
        node = self._tree.node(nodeid)
        if isinstance(node, Directory):
            return self._tree.upper_fd(node)
        file = self._tree.writable(nodeid)
        file.bare = False
        fd, name = self._handle(file)
        return fd if name is None else b"/proc/self/fd/%d/%s" % (fd, name)

    def _sized(self, unique: int, size: int, value: bytes) -> None:
        if size == 0:
            self._device.reply(unique, w.XATTR_OUT.pack(len(value), 0))
        elif len(value) > size:
            raise OSError(errno.ERANGE, "buffer too small")
        else:
            self._device.reply(unique, value)


def _moment(valid: int, given: int, now: int, seconds: int, nanoseconds: int) -> int | None:
    if not valid & given:
        return None
    if valid & now:
        return NOW
    return (seconds - (1 << 64) if seconds >> 63 else seconds) * 10**9 + nanoseconds


def _sought(lower: Lower, place: int, offset: int, whence: int) -> int:
    """SEEK_DATA and SEEK_HOLE in a lower's file. Raises OSError (ENXIO)."""
    size = int(w.ATTR.unpack(lower.attributes(place))[1])
    if offset >= size:
        raise OSError(errno.ENXIO, "beyond the end")
    for _, at, length in lower.pieces(place, offset, size - offset):
        if (at >= 0) == (whence == os.SEEK_DATA):
            return offset
        offset += length
    if whence == os.SEEK_DATA:
        raise OSError(errno.ENXIO, "no data up to the end")
    return size
