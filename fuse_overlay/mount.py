"""mount(2) of a FUSE file system without a helper: the caller is root of a user namespace and a mount namespace."""

from __future__ import annotations

import ctypes
import os

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOATIME = 1, 2, 4, 1024
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)


def mount_fuse(target: str, fsname: str, read_only: bool, flags: int = 0) -> int:
    """Mount at a directory; returns the /dev/fuse descriptor to serve. `flags` are further MS_… of mount(2).

    Raises OSError naming /dev/fuse or the target.

    allow_other: all users of the namespace and those below it; default_permissions: the kernel checks modes."""
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
    flags |= _MS_NODEV | (_MS_RDONLY | _MS_NOATIME if read_only else 0)
    if _libc.mount(fsname.encode(), os.fsencode(target), b"fuse." + fsname.encode(), flags, options.encode()):
        number = ctypes.get_errno()
        os.close(fd)
        raise OSError(number, os.strerror(number), target)
    return fd
