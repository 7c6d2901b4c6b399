"""Mounts where we have no right to: libfuse asks its set-UID helper fusermount3, by way of fusepy.

libfuse only mounts and hands the /dev/fuse descriptor over; the protocol is spoken by our servers, as everywhere: of
what makes them fast, libfuse 2 knows nothing. Without libfuse.so.2 (most machines have libfuse 3 only, and fusepy knows
no other) the helper is asked directly, in the same way."""

from __future__ import annotations

import array
import ctypes
import errno
import os
import shutil
import socket
import subprocess


class _Arguments(ctypes.Structure):
    """struct fuse_args of libfuse 2."""

    _fields_ = (("count", ctypes.c_int), ("words", ctypes.POINTER(ctypes.c_char_p)), ("allocated", ctypes.c_int))


def mount_by_helper(target: str, options: str) -> int:
    """Mount at a directory of the caller's; returns the /dev/fuse descriptor. Raises OSError with what the helper said.

    `options` are libfuse's (fsname=…, ro, default_permissions, allow_other where /etc/fuse.conf permits it)."""
    library = _library()
    return _ask_helper(target, options) if library is None else _ask_library(library, target, options)


def unmount_by_helper(target: str, *, lazily: bool = False) -> None:
    """Raises OSError with what the helper said."""
    done = subprocess.run(
        [_helper(), "-u", *(["-z"] if lazily else []), "--", target], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OSError(errno.EINVAL, done.stderr.strip() or "cannot unmount", target)


def _library() -> ctypes.CDLL | None:
    try:
        import fuse
    except (ImportError, OSError):  # fusepy raises OSError without libfuse.so.2
        return None
    library = fuse._libfuse
    return library if isinstance(library, ctypes.CDLL) else None


def _ask_library(library: ctypes.CDLL, target: str, options: str) -> int:
    library.fuse_mount.restype = ctypes.c_void_p
    library.fuse_mount.argtypes = (ctypes.c_char_p, ctypes.POINTER(_Arguments))
    library.fuse_chan_fd.restype = ctypes.c_int
    library.fuse_chan_fd.argtypes = (ctypes.c_void_p,)
    words = (ctypes.c_char_p * 4)(b"rootless-fuse-overlay", b"-o", os.fsencode(options), None)
    arguments = _Arguments(3, ctypes.cast(words, ctypes.POINTER(ctypes.c_char_p)), 0)
    channel = library.fuse_mount(os.fsencode(target), ctypes.byref(arguments))
    if not channel:
        raise OSError(errno.EPERM, "fusermount3 refused (what it said is above)", target)
    return os.dup(library.fuse_chan_fd(channel))  # the channel stays: freeing it would unmount


def _ask_helper(target: str, options: str) -> int:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            [_helper(), "-o", options, "--", target],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            check=False,
        )
        theirs.close()
        if done.returncode:
            raise OSError(errno.EPERM, done.stderr.strip() or "fusermount3 failed", target)
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            (fd,) = array.array("i", data[:4])
            os.set_inheritable(fd, False)
            return fd
    raise OSError(errno.EPROTO, "fusermount3 sent no descriptor", target)


def _helper() -> str:
    found = shutil.which("fusermount3") or shutil.which("fusermount")
    if found is None:
        raise OSError(
            errno.ENOENT,
            "mounting outside of a user namespace needs fusermount3 (install fuse3), or run in one: unshare -rm",
        )
    return found
