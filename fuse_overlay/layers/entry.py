"""One member of a layer's tar, as a value. Names are bytes: an image may hold any."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from fuse_overlay.errors import LayerError

MAX_PATH_BYTES = 32 << 10  # deeper than any program goes
WHITEOUT_PREFIX = b".wh."
AUFS_PREFIX = b".wh..wh."
OPAQUE_NAME = b".wh..wh..opq"
_UNUSUAL = re.compile(rb"//|/\.|\0").search
NO_XATTRS: Mapping[bytes, bytes] = MappingProxyType({})  # one for all: most of ten thousands have none


@dataclass(slots=True)
class Entry:
    """`path` is relative, without `.`, `..` or empty components; b"" is the root. `mode` has the file type.
    `data_offset` is where the content starts in the tar; `link` the symlink's text or the hard link's path; `pieces` of
    a sparse file what is stored, as (offset in the file, bytes), one after the other from `data_offset` on."""

    path: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    rdev: int = 0
    data_offset: int = 0
    link: bytes = b""
    hard_link: bool = False
    xattrs: Mapping[bytes, bytes] = field(default_factory=lambda: NO_XATTRS)
    pieces: list[tuple[int, int]] | None = None

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


def normalise(name: bytes, what: str = "member") -> bytes:
    """A tar's name as a relative path. Raises LayerError where it leads out of the tree or cannot be a path.

    Absolute names are relative to the tree's root, as docker and tar take them."""
    plain = name.removeprefix(b"./").rstrip(b"/")
    if len(plain) <= 255 and plain[:1] not in (b"/", b".") and not _UNUSUAL(plain):
        return plain
    if b"\0" in name:
        raise LayerError(f"{what} name with a NUL byte: {shown(name)}")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise LayerError(f"{what} name leads out of the archive: {shown(name)}")
    if len(name) > MAX_PATH_BYTES:
        raise LayerError(f"{what} name of {len(name)} bytes: {shown(name)}")
    if any(len(part) > 255 for part in parts):
        raise LayerError(f"{what} name with a component of more than 255 bytes: {shown(name)}")
    return b"/".join(parts)


def shown(name: bytes) -> str:
    """A name for an error message."""
    return repr(name[:200].decode("utf-8", "backslashreplace"))
