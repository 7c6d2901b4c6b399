"""Real mounts for tests: a child in its own user and mount namespace serves a tree while a function looks at it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from fuse_overlay import Tree, mount_fuse, serve_tree

CLONE_NEWUSER, CLONE_NEWNS, MNT_DETACH = 0x10000000, 0x00020000, 2
libc = ctypes.PyDLL(None, use_errno=True)


def enter_namespaces() -> None:
    """Root of a new user namespace with one id, and a mount namespace."""
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def in_child(function: Callable[[], None]) -> None:
    """Run in a forked child; its failure is ours."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def start_server(fuse_fd: int, tree: Tree, *, resume: bool = False) -> int:
    """A process that serves; its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            serve_tree(fuse_fd, tree, id_count=1, resume=resume)
        finally:
            os._exit(0)
    return pid


def with_mount(tree: Tree, target: Path, look: Callable[[int, int], None]) -> None:
    """Mount the tree at `target` in a child and call look(fuse_fd, server's pid) there."""

    def child() -> None:
        enter_namespaces()
        fuse_fd = mount_fuse(str(target), "rootless", read_only=True)
        server = start_server(fuse_fd, tree)
        try:
            look(fuse_fd, server)
        finally:
            libc.umount2(os.fsencode(target), MNT_DETACH)
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, signal.SIGKILL)

    in_child(child)
