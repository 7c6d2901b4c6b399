"""The roots of containers of driver `fuse`: one read-write server each, restarted on its FUSE descriptor.

Mounted where the launcher is, so that it can be served again and be looked into; the container binds it. Owned by
`server`, which tells when a container has ended or did not start."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import fuse_overlay
from rootless.launcher.images import Run, checked_tree
from rootless.launcher.processes import LaunchRefused
from rootless.launcher.revival import Revival
from rootless.runtime.spec import RootSpec, UnionSpec
from rootless.syscalls import Syscalls
from rootless.syscalls import numbers as n

STOP_SECONDS = 10.0


@dataclass
class UnionMount:
    root: RootSpec
    union: UnionSpec
    path: Path
    fuse_fd: int
    journal_fd: int
    diff_ids: Sequence[str]  # of a tree's layers
    pid: int = 0
    revival: Revival = field(default_factory=Revival)


class Unions:
    """All unions. `run` as for `images`."""

    def __init__(self, directory: Path, id_count: int, syscalls: Syscalls, run: Run) -> None:
        self._directory = directory
        self._id_count = id_count
        self._syscalls = syscalls
        self._run = run
        self.by_id: dict[str, UnionMount] = {}

    def mount(self, container_id: str, root: RootSpec) -> str:
        """Path of the mounted root. Raises LaunchRefused, OSError; leaves nothing then."""
        union = root.union
        if union is None or container_id in self.by_id:
            raise LaunchRefused("mount the root", 17, f"{container_id} is known already")
        diff_ids = checked_tree(union.tree, union.layers) if union.kind == "tree" else ()
        path = self._directory / f"container-{container_id[:64]}"
        path.mkdir(mode=0o755, exist_ok=True)
        try:
            fuse_fd = fuse_overlay.mount_fuse(str(path), "rootless", read_only=False)
        except OSError:
            path.rmdir()
            raise
        mount = UnionMount(root, union, path, fuse_fd, os.memfd_create("journal", os.MFD_CLOEXEC), diff_ids)
        self.by_id[container_id] = mount
        self._serve(mount, resume=False)
        return str(path)

    def path_of(self, container_id: str) -> str:
        """Where a container's root is mounted; "" where it is not."""
        mount = self.by_id.get(container_id)
        return "" if mount is None else str(mount.path)

    def unmount(self, container_id: str) -> None:
        """Idempotent. The server leaves when the last user has gone."""
        mount = self.by_id.pop(container_id, None)
        if mount is None:
            return
        os.close(mount.fuse_fd)  # first: unmounting waits for what is not written yet, which a dead server never takes
        os.close(mount.journal_fd)
        self._syscalls.umount(str(mount.path), n.MNT_DETACH)
        mount.path.rmdir()

    def reaped(self, pid: int) -> tuple[str, Revival] | None:
        """A child ended: (container, what becomes of it) if it was a server of ours. One given up is unmounted: whoever
        waits for an answer gets ENOTCONN."""
        found = next((item for item in self.by_id.items() if item[1].pid == pid), None)
        if found is None:
            return None
        container_id, mount = found
        mount.pid = 0
        mount.revival.died(time.monotonic())
        if mount.revival.given_up:
            self.unmount(container_id)
        return container_id, mount.revival

    def revivals(self) -> Iterator[tuple[Revival, Callable[[], None]]]:
        """Each server's, and what starts it again."""
        for mount in list(self.by_id.values()):
            yield mount.revival, partial(self._serve, mount, resume=True)

    def _serve(self, mount: UnionMount, *, resume: bool) -> None:
        union = mount.union

        def serve() -> None:
            lower: fuse_overlay.Tree | fuse_overlay.DirectoryLayer
            if union.kind == "tree":
                layers = [Path(layer) for layer in union.layers]
                lower = fuse_overlay.reopen_tree(Path(union.tree), layers, mount.diff_ids)
            else:
                live = union.kind == "directory"
                lower = fuse_overlay.DirectoryLayer(
                    union.tree, live=live, exclude=union.exclude, journal_fd=mount.journal_fd
                )
            options = fuse_overlay.UnionOptions(id_count=self._id_count)
            fuse_overlay.serve_union(mount.fuse_fd, [lower], mount.root.upper, mount.root.work, options, resume=resume)

        mount.pid = self._run("rl-union", [mount.fuse_fd, mount.journal_fd], serve)
        mount.revival.started(time.monotonic())

    def stop(self) -> None:
        """Every container has been killed: their servers are given time to write down what the kernel still has."""
        pids = [mount.pid for mount in self.by_id.values() if mount.pid]
        for container_id in list(self.by_id):
            self.unmount(container_id)
        until = time.monotonic() + STOP_SECONDS
        for pid in pids:
            while not _ended(pid):
                if time.monotonic() > until:
                    os.kill(pid, signal.SIGKILL)
                    break
                time.sleep(0.005)


def _ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True
