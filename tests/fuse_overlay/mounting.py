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

from fuse_overlay import Tree, UnionOptions, mount_fuse, serve_tree, serve_union

CLONE_NEWUSER, CLONE_NEWNS, MNT_FORCE, MNT_DETACH = 0x10000000, 0x00020000, 1, 2
_PR_SET_PDEATHSIG = 1
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
    """Run in a forked child; its failure is ours. It goes when we go."""
    pid = os.fork()
    if pid == 0:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            function()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


Serve = Callable[[int, bool], None]  # (fuse_fd, resume)


def serving(tree: Tree) -> Serve:
    return lambda fuse_fd, resume: serve_tree(fuse_fd, tree, id_count=1, resume=resume)


def start_server(fuse_fd: int, serve: Serve, *, resume: bool = False) -> int:
    """A process that serves; its pid."""
    pid = os.fork()
    if pid == 0:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            serve(fuse_fd, resume)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(0)
    return pid


def with_mount(serve: Serve, target: Path, look: Callable[[int, int], None], *, read_only: bool = True) -> None:
    """Mount at `target` in a child and call look(fuse_fd, server's pid) there."""

    def child() -> None:
        enter_namespaces()
        fuse_fd = mount_fuse(str(target), "rootless", read_only=read_only)

        def serve_or_abort(fd: int, resume: bool) -> None:
            try:
                serve(fd, resume)
            except BaseException:  # whoever waits for an answer could not even be killed
                libc.umount2(os.fsencode(target), MNT_FORCE)
                raise

        server = start_server(fuse_fd, serve_or_abort)
        try:
            look(fuse_fd, server)
        finally:
            os.close(fuse_fd)  # with the server's death the last one is gone, and what still waits for it gets an error
            libc.umount2(os.fsencode(target), MNT_DETACH)
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, signal.SIGKILL)

    in_child(child)


def union_server(home: Path, tree: Tree, options: UnionOptions | None = None) -> Serve:
    """Makes `upper`, `work` and `target` in a directory."""
    for name in ("upper", "work", "target"):
        (home / name).mkdir()
    upper, work = str(home / "upper"), str(home / "work")
    return lambda fd, resume: serve_union(fd, [tree], upper, work, options or UnionOptions(), resume=resume)


def with_union(home: Path, tree: Tree, look: Callable[[int, int], None], options: UnionOptions | None = None) -> None:
    """with_mount() of a writable union at `target` in a directory."""
    with_mount(union_server(home, tree, options), home / "target", look, read_only=False)
