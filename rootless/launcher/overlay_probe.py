"""Whether kernel overlayfs can be the upper half of a container's root here: it is tried. Called by `server`."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from rootless.syscalls import Syscalls
from rootless.syscalls import numbers as n


def reason_against(directory: str, mount_point: Path, syscalls: Syscalls) -> str:
    """Why not with the writable layer in `directory`; empty where it works.

    A kernel before 5.11 refuses the mount; a file system without user xattrs or d_type is mounted read-only or not."""
    place = ""
    try:
        place = tempfile.mkdtemp(prefix=".probe-", dir=directory)
        for name in ("lower", "upper", "work"):
            os.mkdir(os.path.join(place, name))
        data = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work,userxattr"
        syscalls.mount("overlay", str(mount_point), "overlay", 0, data)
        try:
            os.mkdir(mount_point / "made")
            os.setxattr(mount_point / "made", "user.probe", b"1")
            return ""
        finally:
            syscalls.umount(str(mount_point), n.MNT_DETACH)
    except OSError as error:
        return f"overlayfs does not work with a writable layer in {directory}: {error.strerror}"
    finally:
        if place:
            shutil.rmtree(place, ignore_errors=True)
