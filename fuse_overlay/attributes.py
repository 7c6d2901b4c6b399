"""A fuse_attr (include/uapi/linux/fuse.h), made and changed."""

from __future__ import annotations

import os
import struct

from fuse_overlay.union.marks import Owner
from fuse_overlay.wire import structs as w

_UID_AT, _IDS = 68, struct.Struct("<II")
_SECOND = 10**9
_UNSIGNED = (1 << 64) - 1


def packed(inode: int, s: os.stat_result, links: int = -1) -> bytes:
    """A fuse_attr of what the upper has."""
    accessed, modified, changed = s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns
    return w.ATTR.pack(
        inode,
        s.st_size,
        s.st_blocks,
        accessed // _SECOND & _UNSIGNED,
        modified // _SECOND & _UNSIGNED,
        changed // _SECOND & _UNSIGNED,
        accessed % _SECOND,
        modified % _SECOND,
        changed % _SECOND,
        s.st_mode,
        s.st_nlink if links < 0 else links,
        s.st_uid,
        s.st_gid,
        s.st_rdev,
        4096,
        0,
    )


def owned_by(attributes: bytes, owner: Owner) -> bytes:
    """The same with the ids of a mark."""
    return attributes[:_UID_AT] + _IDS.pack(owner.uid, owner.gid) + attributes[_UID_AT + _IDS.size :]


def with_links(attributes: bytes, less: int) -> bytes:
    """The same with so many links less, at least 0."""
    fields = list(w.ATTR.unpack(attributes))
    fields[10] = max(0, fields[10] - less)
    return w.ATTR.pack(*fields)
