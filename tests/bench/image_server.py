"""Driver `fuse+overlay` beside kernel overlayfs over an unpacked tree, row by row, in one run.

    python -m tests.bench.image_server TAR [--rounds N] [--peers overlay,fuse-overlayfs] [--only WORD]

As an ordinary user, from the top of the source tree; no root, no engine. TAR is a root file system (a Debian tree of
mmdebstrap). It is unpacked once for the peers. Cold: a fresh mount, whose file system has cached nothing; the files
below it (layer.tar, or the unpacked tree) are in memory. The sides alternate; medians of seconds, and ours over the
peer's."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fuse_overlay import LayerWriter, merge_tree, mount_fuse, open_tree, serve_tree
from tests.fuse_overlay.mounting import MNT_DETACH, enter_namespaces, in_child, libc, start_server

Action = Callable[[str], None]
_WRITE_BYTES = 512 << 20
_SMALL_FILES = 5000


def shell(command: str) -> Action:
    """Run by sh with $M, the merged tree."""

    def run(merged: str) -> None:
        subprocess.run(["sh", "-ec", command], check=True, env={**os.environ, "M": merged, "LC_ALL": "C"})

    return run


def create_and_unlink(merged: str) -> None:
    directory = os.path.join(merged, "created")
    os.mkdir(directory)
    for number in range(_SMALL_FILES):
        with open(f"{directory}/{number}", "xb") as file:
            file.write(b"x" * 100)
    for number in range(_SMALL_FILES):
        os.unlink(f"{directory}/{number}")
    os.rmdir(directory)


def write_much(merged: str) -> None:
    block = os.urandom(1 << 20)
    with open(f"{merged}/written", "xb", buffering=0) as file:
        for _ in range(_WRITE_BYTES >> 20):
            file.write(block)
    os.unlink(f"{merged}/written")


FIND = 'find "$M" -ls >/dev/null'
TAR = 'tar -C "$M" -cf - . | cat >/dev/null'


def rows(member: str) -> list[tuple[str, Action | None, Action]]:
    """(name, not timed, timed); each on a mount of its own."""
    cat = 'for i in 1 2 3; do find "$M" -type f -print0 | xargs -0 cat >/dev/null; done'
    untar = f'mkdir "$M/untarred"; tar -C "$M/untarred" --no-same-owner -xf "{member}"'
    return [
        ("find -ls, cold", None, shell(FIND)),
        ("find -ls, warm", shell(FIND), shell(FIND)),
        ("tar, cold", None, shell(TAR)),
        ("tar, warm", shell(TAR), shell(TAR)),
        ("cat everything x3", None, shell(cat)),
        ("untar usr/share", None, shell(untar)),
        (f"create + unlink {_SMALL_FILES}", None, create_and_unlink),
        (f"write {_WRITE_BYTES >> 20} MiB", None, write_much),
    ]


@contextlib.contextmanager
def overlay(lower: str, scratch: str) -> Iterator[str]:
    """Kernel overlayfs on `lower` with a fresh upper."""
    place = tempfile.mkdtemp(dir=scratch)
    upper, work, merged = (f"{place}/{name}" for name in ("upper", "work", "merged"))
    for directory in (upper, work, merged):
        os.mkdir(directory)
    options = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr".encode()
    if libc.mount(b"overlay", os.fsencode(merged), b"overlay", 0, options):
        raise OSError(ctypes.get_errno(), "overlay")
    try:
        yield merged
    finally:
        libc.umount2(os.fsencode(merged), MNT_DETACH)
        _discard(place)


@contextlib.contextmanager
def ours(layer: str, scratch: str) -> Iterator[str]:
    """The image server, kernel overlayfs on top."""
    lower = tempfile.mkdtemp(dir=scratch)
    fuse_fd = mount_fuse(lower, "rootless", read_only=True)
    tree = open_tree(Path(layer) / "tree", [Path(layer)])
    server = start_server(fuse_fd, lambda fd, resume: serve_tree(fd, tree, id_count=1, resume=resume))
    os.close(fuse_fd)
    try:
        with overlay(lower, scratch) as merged:
            yield merged
    finally:
        libc.umount2(os.fsencode(lower), MNT_DETACH)
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
        tree.close()
        os.rmdir(lower)


@contextlib.contextmanager
def fuse_overlayfs(lower: str, scratch: str) -> Iterator[str]:
    place = tempfile.mkdtemp(dir=scratch)
    upper, work, merged = (f"{place}/{name}" for name in ("upper", "work", "merged"))
    for directory in (upper, work, merged):
        os.mkdir(directory)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["fuse-overlayfs", "-o", options, merged], check=True)
    try:
        yield merged
    finally:
        libc.umount2(os.fsencode(merged), MNT_DETACH)
        _discard(place)


def _discard(place: str) -> None:
    subprocess.run(["chmod", "-R", "u+rwx", place], check=False, stderr=subprocess.DEVNULL)
    shutil.rmtree(place, ignore_errors=True)


def measure(sides: dict[str, Callable[[], contextlib.AbstractContextManager[str]]], names: list[str], rounds: int,
            only: str, member: str) -> None:  # fmt: skip
    print(f"{'':24}" + "".join(f"{name:>16}" for name in names) + "".join(f"{'/ ' + name:>18}" for name in names[1:]))
    for what, before, action in rows(member):
        if only not in what:
            continue
        times: dict[str, list[float]] = {name: [] for name in names}
        for number in range(rounds + 1):
            for name in names:
                with sides[name]() as merged:
                    if before is not None:
                        before(merged)
                    os.sync()
                    start = time.perf_counter()
                    action(merged)
                    if number:
                        times[name].append(time.perf_counter() - start)
        middle = [statistics.median(times[name]) for name in names]
        print(
            f"{what:24}" + "".join(f"{taken:16.3f}" for taken in middle)
            + "".join(f"{middle[0] / taken:18.2f}" for taken in middle[1:]), flush=True,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tar", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default="overlay")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    scratch = tempfile.mkdtemp(prefix="rootless-bench-", dir=os.environ.get("TMPDIR", "/var/tmp"))
    try:
        in_child(lambda: _child(options, scratch))
    finally:
        _discard(scratch)


def _child(options: argparse.Namespace, scratch: str) -> None:
    enter_namespaces()
    os.mkdir(f"{scratch}/layer")
    writer = LayerWriter(Path(scratch) / "layer")
    with open(options.tar, "rb") as file:
        while data := file.read(1 << 20):
            writer.write(data)
    writer.finish()
    merge_tree([Path(scratch) / "layer"], Path(scratch) / "layer" / "tree")
    unpacked = f"{scratch}/unpacked"
    os.mkdir(unpacked)
    subprocess.run(["tar", "-C", unpacked, "--no-same-owner", "--exclude=./dev/*", "-xf", options.tar], check=True)
    member = f"{scratch}/share.tar"
    subprocess.run(["tar", "-C", unpacked, "-cf", member, "usr/share"], check=True)
    os.sync()
    sides: dict[str, Callable[[], contextlib.AbstractContextManager[str]]] = {
        "fuse+overlay": lambda: ours(f"{scratch}/layer", scratch),
        "overlay": lambda: overlay(unpacked, scratch),
        "fuse-overlayfs": lambda: fuse_overlayfs(unpacked, scratch),
    }
    measure(sides, ["fuse+overlay", *filter(None, options.peers.split(","))], options.rounds, options.only, member)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
