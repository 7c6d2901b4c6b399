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
IOCTL, BATCH_FORGET, READDIRPLUS, LSEEK, STATX = 39, 42, 44, 46, 52

NOTIFY_STORE = 4
NOTIFY_RESEND = 7
UNIQUE_RESEND = 1 << 63  # set in the id of a request that is sent again

# INIT flags (the second word's are shifted by 32)
ASYNC_READ = 1 << 0
BIG_WRITES = 1 << 5
AUTO_INVAL_DATA = 1 << 12
DO_READDIRPLUS = 1 << 13
ASYNC_DIO = 1 << 15
NO_OPEN_SUPPORT = 1 << 17
PARALLEL_DIROPS = 1 << 18
MAX_PAGES = 1 << 22
CACHE_SYMLINKS = 1 << 23
NO_OPENDIR_SUPPORT = 1 << 24
EXPLICIT_INVAL_DATA = 1 << 25
INIT_EXT = 1 << 30

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
STORE_OUT = struct.Struct("<QQII")


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


def pad8(size: int) -> int:
    return (size + 7) & ~7
