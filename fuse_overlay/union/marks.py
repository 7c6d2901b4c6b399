"""What overlayfs and we write into an upper directory besides the files themselves. Pure.

Everything is in `user.overlay.`, which kernel overlayfs (mounted with `userxattr`) hides from the container as we do,
so that a container may change its driver between two starts. Source: fs/overlayfs/overlayfs.h,
Documentation/filesystems/overlayfs.rst."""

from __future__ import annotations

import stat
import struct
from typing import NamedTuple

PRIVATE = b"user.overlay."
OPAQUE = b"user.overlay.opaque"  # y: nothing of the layers below shows; x: may hold whiteouts that are files
WHITEOUT = b"user.overlay.whiteout"  # of an empty file in a directory of opaque x: a whiteout
ORIGIN = b"user.overlay.rootless.origin"  # what a copied-up file was below: keeps its st_ino
OWNER = b"user.overlay.rootless.owner"  # uid:gid:mode that the host's user may not give to a file
_ESCAPE = b"user.overlay.overlay."
_HIDDEN = (b"user.overlay.", b"user.fuseoverlayfs.", b"trusted.overlay.")
_ORIGIN = struct.Struct("<QQQQ")


class Origin(NamedTuple):
    """`layer` names the layer below, `session` the life of the mount in which `node` was the file's node id (0: it is
    that in every mount), `inode` the st_ino it is shown with."""

    layer: int
    session: int
    node: int
    inode: int


class Owner(NamedTuple):
    """Ids and permission bits as the container set them; `mode` has the file type."""

    uid: int
    gid: int
    mode: int


def is_whiteout(mode: int, rdev: int) -> bool:
    """A character device 0/0."""
    return rdev == 0 and stat.S_ISCHR(mode)


def is_hidden(name: bytes) -> bool:
    """Whether an xattr of a layer is ours and no business of the container's."""
    return name.startswith(_HIDDEN)


def stored_name(name: bytes) -> bytes | None:
    """The name under which the upper has a container's xattr: overlayfs' own are escaped, so that a union in it
    can have its marks too. None: the container may not have one of this name."""
    if name.startswith(PRIVATE):
        return _ESCAPE + name[len(PRIVATE) :]
    return None if name.startswith(_HIDDEN) else name


def shown_name(name: bytes) -> bytes | None:
    """The other way round; None for what is not the container's."""
    if name.startswith(_ESCAPE):
        return PRIVATE + name[len(_ESCAPE) :]
    return None if name.startswith(_HIDDEN) else name


def origin_value(origin: Origin) -> bytes:
    return _ORIGIN.pack(*origin)


def parse_origin(value: bytes) -> Origin | None:
    return Origin._make(_ORIGIN.unpack(value)) if len(value) == _ORIGIN.size else None


def owner_value(owner: Owner) -> bytes:
    return b"%d:%d:%o" % owner


def parse_owner(value: bytes) -> Owner | None:
    try:
        uid, gid, mode = value.split(b":")
        owner = Owner(int(uid), int(gid), int(mode, 8))
    except ValueError:
        return None
    return owner if min(owner) >= 0 and max(owner[:2]) < 1 << 32 and owner.mode < 1 << 16 else None
