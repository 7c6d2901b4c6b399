"""What memory grows by when 20 containers of one image read the same 500 MB.

    python -m tests.bench.image_memory [--containers N] [--megabytes N]

As an ordinary user, from the top of the source tree, on a machine that does nothing else: the figure is the whole
machine's (MemTotal - MemFree). fuse+overlay is one image server and a kernel overlayfs per container, beside it one
fuse-overlayfs per container over the same tree unpacked. The file below, in layer.tar or unpacked, is in memory before
and not counted."""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from fuse_overlay import LayerWriter, merge_tree, mount_fuse, open_tree, serve_tree
from tests.bench.image_server import _discard, fuse_overlayfs, overlay
from tests.fuse_overlay.mounting import MNT_DETACH, enter_namespaces, in_child, libc, start_server

Container = Callable[[], contextlib.AbstractContextManager[str]]


def used() -> int:
    """MiB of the machine's memory that are not free."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return (int(fields["MemTotal"].split()[0]) - int(fields["MemFree"].split()[0])) >> 10


@contextlib.contextmanager
def image_server(layer: Path, scratch: str) -> Iterator[str]:
    lower = tempfile.mkdtemp(dir=scratch)
    fuse_fd = mount_fuse(lower, "rootless", read_only=True)
    tree = open_tree(layer / "tree", [layer])
    start_server(fuse_fd, lambda fd, resume: serve_tree(fd, tree, id_count=1, resume=resume))
    os.close(fuse_fd)
    yield lower
    libc.umount2(os.fsencode(lower), MNT_DETACH)


def grown(container: Container, count: int) -> list[int]:
    """MiB more in use after the first container has read the file, and after all have."""
    found = []
    with contextlib.ExitStack() as stack:
        before = used()
        for number in range(count):
            merged = stack.enter_context(container())
            subprocess.run(["cat", f"{merged}/big"], check=True, stdout=subprocess.DEVNULL)
            if number in (0, count - 1):
                found.append(used() - before)
    return found


def make_room(megabytes: int) -> None:
    """Push out as much of the page cache: what is full cannot grow."""
    pid = os.fork()
    if pid == 0:
        with mmap.mmap(-1, megabytes << 20) as room:
            for at in range(0, len(room), mmap.PAGESIZE):
                room[at] = 1
        os._exit(0)
    os.waitpid(pid, 0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--containers", type=int, default=20)
    parser.add_argument("--megabytes", type=int, default=500)
    options = parser.parse_args()
    scratch = tempfile.mkdtemp(prefix="rootless-bench-", dir=os.environ.get("TMPDIR", "/var/tmp"))

    def child() -> None:
        enter_namespaces()
        unpacked, layer = Path(scratch) / "unpacked", Path(scratch) / "layer"
        unpacked.mkdir()
        layer.mkdir()
        with open(unpacked / "big", "wb") as file:
            for _ in range(options.megabytes):
                file.write(os.urandom(1 << 20))
        with tarfile.open(Path(scratch) / "tar", "w") as tar:
            tar.add(unpacked / "big", "big")
        writer = LayerWriter(layer)
        with open(Path(scratch) / "tar", "rb") as file:
            while data := file.read(1 << 20):
                writer.write(data)
        writer.finish()
        merge_tree([layer], layer / "tree")
        os.unlink(Path(scratch) / "tar")
        os.sync()
        make_room(options.containers * options.megabytes + 2000)
        for path in (layer / "layer.tar", unpacked / "big"):
            subprocess.run(["cat", path], check=True, stdout=subprocess.DEVNULL)
        print(f"{options.containers} containers, {options.megabytes} MB; MiB more in use after the first, after all")
        with image_server(layer, scratch) as lower:
            print("fuse+overlay  ", *grown(lambda: overlay(lower, scratch), options.containers), flush=True)
        print("fuse-overlayfs", *grown(lambda: fuse_overlayfs(str(unpacked), scratch), options.containers), flush=True)

    try:
        in_child(child)
    finally:
        _discard(scratch)


if __name__ == "__main__":
    main()
