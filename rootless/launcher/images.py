"""Mounts of images and the servers behind them: one process per image tree, restarted on its FUSE descriptor.

The descriptor is the store's: while it is open the mount lives, whoever serves it. Owned by `server`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import fuse_overlay
from rootless.launcher import messages
from rootless.launcher.processes import LaunchRefused
from rootless.launcher.revival import Revival
from rootless.syscalls import Syscalls
from rootless.syscalls import numbers as n

Run = Callable[[str, Sequence[int], Callable[[], None]], int]


@dataclass
class ImageMount:
    request: messages.MountImage
    path: Path
    fuse_fd: int
    journal_fd: int
    diff_ids: Sequence[str] = ()  # of a tree's layers
    pid: int = 0
    revival: Revival = field(default_factory=Revival)


def checked_tree(tree: str, layers: Sequence[str]) -> Sequence[str]:
    """The diff ids of a tree that can be served: a broken index is the caller's error now, not a dead server later.

    Raises LaunchRefused."""
    try:
        opened = fuse_overlay.open_tree(Path(tree), [Path(layer) for layer in layers])
    except fuse_overlay.LayerError as error:
        raise LaunchRefused("open image", 5, str(error)) from error
    with closing(opened):
        return opened.diff_ids


class Images:
    """All image mounts. `run(name, keep, function)` forks a child that keeps those descriptors, runs the function and
    leaves; it returns the pid."""

    def __init__(self, directory: Path, id_count: int, syscalls: Syscalls, run: Run) -> None:
        self._directory = directory
        self._id_count = id_count
        self._syscalls = syscalls
        self._run = run
        self.by_key: dict[str, ImageMount] = {}

    def mount(self, request: messages.MountImage) -> str:
        """Path of the mounted tree. Raises LaunchRefused, OSError."""
        if (known := self.by_key.get(request.key)) is not None:
            return str(known.path)
        diff_ids = checked_tree(request.tree, request.layers) if request.kind == "tree" else ()
        path = self._directory / (request.key.replace("/", "_").replace(":", "_")[:80] or "image")
        path.mkdir(mode=0o755, exist_ok=True)
        fuse_fd = fuse_overlay.mount_fuse(str(path), "rootless", read_only=True)
        journal_fd = os.memfd_create("journal", os.MFD_CLOEXEC) if request.kind == "directory" else -1
        image = ImageMount(request, path, fuse_fd, journal_fd, diff_ids)
        self._serve(image, resume=False)
        self.by_key[request.key] = image
        return str(path)

    def unmount(self, key: str) -> None:
        image = self.by_key.pop(key, None)
        if image is None:
            return
        self._syscalls.umount(str(image.path), n.MNT_DETACH)
        os.close(image.fuse_fd)  # the server has its own and leaves when the last user has gone
        if image.journal_fd >= 0:
            os.close(image.journal_fd)
        image.path.rmdir()

    def reaped(self, pid: int) -> tuple[str, Revival] | None:
        """A child ended: (key, what becomes of it) if it was a server of ours. One given up is unmounted: whoever
        waits for an answer gets ENOTCONN."""
        image = next((image for image in self.by_key.values() if image.pid == pid), None)
        if image is None:
            return None
        image.pid = 0
        image.revival.died(time.monotonic())
        if image.revival.given_up:
            self.unmount(image.request.key)
        return image.request.key, image.revival

    def revivals(self) -> Iterator[tuple[Revival, Callable[[], None]]]:
        """Each server's, and what starts it again."""
        for image in list(self.by_key.values()):
            yield image.revival, partial(self._serve, image, resume=True)

    def _serve(self, image: ImageMount, *, resume: bool) -> None:
        request = image.request

        def serve() -> None:
            if request.kind == "directory":
                fuse_overlay.serve_directory(
                    image.fuse_fd,
                    request.tree,
                    journal_fd=image.journal_fd,
                    exclude=request.exclude,
                    resume=resume,
                )
                return
            layers = [Path(layer) for layer in request.layers]
            if request.kind == "lazy":
                tree = fuse_overlay.open_tree(Path(request.tree), layers)
                fuse_overlay.serve_lazy_tree(image.fuse_fd, tree, layers, id_count=self._id_count, resume=resume)
                return
            tree = fuse_overlay.reopen_tree(Path(request.tree), layers, image.diff_ids)
            fuse_overlay.serve_tree(image.fuse_fd, tree, id_count=self._id_count, resume=resume)

        keep = [image.fuse_fd] + ([image.journal_fd] if image.journal_fd >= 0 else [])
        image.pid = self._run("rl-image", keep, serve)
        image.revival.started(time.monotonic())

    def stop(self) -> None:
        for key in list(self.by_key):
            pid = self.by_key[key].pid
            self.unmount(key)
            if pid:
                os.kill(pid, signal.SIGKILL)
