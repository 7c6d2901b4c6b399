"""The kernel's FUSE protocol, 7.x, as structs and numbers. Pure. Source: include/uapi/linux/fuse.h.

Only what a server needs. `<`: the protocol is in the host's byte order, and every host Python runs this on is
little-endian; the layouts have no implicit padding."""

from __future__ import annotations

import struct
from typing import NamedTuple

ROOT_ID = 1
KERNEL_VERSION = 7
MINOR_WANTED = 41

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK, MKNOD, MKDIR = 1, 2, 3, 4, 5, 6, 8, 9
UNLINK, RMDIR, RENAME, LINK, OPEN, READ, WRITE, STATFS, RELEASE = 10, 11, 12, 13, 14, 15, 16, 17, 18
FSYNC, SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, FLUSH, INIT = 20, 21, 22, 23, 24, 25, 26
OPENDIR, READDIR, RELEASEDIR, FSYNCDIR, ACCESS, CREATE, INTERRUPT, DESTROY = 27, 28, 29, 30, 34, 35, 36, 38
IOCTL, BATCH_FORGET, FALLOCATE, READDIRPLUS, RENAME2, LSEEK, COPY_FILE_RANGE = 39, 42, 43, 44, 45, 46, 47
TMPFILE, STATX = 51, 52

NOTIFY_INVAL_INODE = 2
NOTIFY_STORE = 4
NOTIFY_RESEND = 7
UNIQUE_RESEND = 1 << 63  # set in the id of a request that is sent again

# INIT flags (the second word's are shifted by 32)
ASYNC_READ = 1 << 0
BIG_WRITES = 1 << 5
DONT_MASK = 1 << 6
AUTO_INVAL_DATA = 1 << 12
DO_READDIRPLUS = 1 << 13
ASYNC_DIO = 1 << 15
NO_OPEN_SUPPORT = 1 << 17
WRITEBACK_CACHE = 1 << 16
PARALLEL_DIROPS = 1 << 18
POSIX_ACL = 1 << 20
MAX_PAGES = 1 << 22
CACHE_SYMLINKS = 1 << 23
NO_OPENDIR_SUPPORT = 1 << 24
EXPLICIT_INVAL_DATA = 1 << 25
HANDLE_KILLPRIV_V2 = 1 << 28
SETXATTR_EXT = 1 << 29
INIT_EXT = 1 << 30

# SETATTR: which fields count
FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE, FATTR_ATIME, FATTR_MTIME = 1, 2, 4, 8, 16, 32
FATTR_ATIME_NOW, FATTR_MTIME_NOW = 1 << 7, 1 << 8
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4

FOREVER = 1 << 31  # seconds; as long as the kernel's time arithmetic allows

IN_HEADER = struct.Struct("<IIQQIIIHH")  # len opcode unique nodeid uid gid pid extlen padding
OUT_HEADER = struct.Struct("<IiQ")  # len error unique
ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
ENTRY = struct.Struct("<QQQQII")  # nodeid generation entry_valid attr_valid entry_valid_nsec attr_valid_nsec
ATTR_OUT = struct.Struct("<QII")
READ_IN = struct.Struct("<QQI")
DIRENT = struct.Struct("<QQII")  # ino off namelen type
STATFS_OUT = struct.Struct("<QQQQQIIII24x")
INIT_IN = struct.Struct("<IIII")
INIT_OUT = struct.Struct("<IIIIHHIIHHIIHHIIIII")
XATTR_IN = struct.Struct("<II")
XATTR_OUT = struct.Struct("<II")
INVAL_INODE_OUT = struct.Struct("<Qqq")
STORE_OUT = struct.Struct("<QQII")
MKNOD_IN = struct.Struct("<IIII")  # mode rdev umask padding
MKDIR_IN = struct.Struct("<II")  # mode umask
RENAME_IN = struct.Struct("<Q")  # new directory
RENAME2_IN = struct.Struct("<QII")  # new directory, flags, padding
LINK_IN = struct.Struct("<Q")  # node
SETATTR_IN = struct.Struct("<IIQQQQQQIIIIIIII")
WRITE_IN = struct.Struct("<QQIIQII")  # fh offset size write_flags lock_owner flags padding
WRITE_OUT = struct.Struct("<II")
FALLOCATE_IN = struct.Struct("<QQQII")  # fh offset length mode padding
LSEEK_IN = struct.Struct("<QQII")  # fh offset whence padding
LSEEK_OUT = struct.Struct("<Q")
COPY_IN = struct.Struct("<QQQQQQQ")  # fh_in off_in nodeid_out fh_out off_out len flags
FSYNC_IN = struct.Struct("<QII")
CREATE_IN = struct.Struct("<IIII")  # flags mode umask open_flags
SETXATTR_IN = struct.Struct("<IIII")  # size flags setxattr_flags padding (with SETXATTR_EXT)
SETXATTR_ACL_KILL_SGID = 1
IOCTL_IN = struct.Struct("<QIIQII")  # fh flags cmd arg in_size out_size
IOCTL_OUT = struct.Struct("<iIII")  # result flags in_iovs out_iovs
OPEN_OUT = struct.Struct("<QII")
FORGET_IN = struct.Struct("<Q")
BATCH_IN = struct.Struct("<II")
FORGET_ONE = struct.Struct("<QQ")


class Request(NamedTuple):
    """A request's header, checked against the bytes that came."""

    length: int
    opcode: int
    unique: int
    nodeid: int


def parse_request(buffer: bytes | bytearray | memoryview, received: int) -> Request:
    """Raises ValueError where the length lies."""
    if received < IN_HEADER.size:
        raise ValueError(f"request of {received} bytes")
    length, opcode, unique, nodeid, *_ = IN_HEADER.unpack_from(buffer)
    if length != received:
        raise ValueError(f"request of {received} bytes says {length}")
    return Request(length, opcode, unique, nodeid)


def name_of(body: bytes) -> bytes:
    """A request's body that is one NUL-terminated name. Raises ValueError."""
    if not body.endswith(b"\0") or b"\0" in body[:-1] or b"/" in body:
        raise ValueError("bad name")
    return body[:-1]


def entry_name(body: bytes) -> bytes:
    """A body that is the name of a directory's entry. Raises ValueError."""
    name = name_of(body)
    if name in (b"", b".", b".."):
        raise ValueError("not an entry's name")
    return name


def entry_names(body: bytes) -> tuple[bytes, bytes]:
    """Two of them. Raises ValueError."""
    first, _, second = body[:-1].partition(b"\0")
    return entry_name(first + b"\0"), entry_name(second + body[-1:])


def pad8(size: int) -> int:
    return (size + 7) & ~7
