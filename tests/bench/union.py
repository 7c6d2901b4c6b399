"""The storage driver `fuse` beside fuse-overlayfs: medians of one run, in which both take turns.

    python -m tests.bench.union --tar FILE --home DIR [--rounds N] [--wheels DIR] [--sources DIR] [--repository DIR]

As an ordinary user with subordinate ids, on a machine at rest; DIR on a file system with user xattrs. FILE is the tar
of a Debian tree: ours serves it as it is, fuse-overlayfs has it unpacked. `--wheels` is a directory for pip to install
all of, `--sources` one of C files to compile, `--repository` a git repository to ask for its status. Every round starts
with an empty upper directory and a new server. Prints a table: what, ours, theirs (seconds), the ratio."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fuse_overlay import LayerWriter, UnionOptions, merge_tree, mount_fuse, open_tree, serve_union

IDS = 65536
_INSIDE = ["unshare", "--map-users=auto", "--map-groups=auto", "--map-root-user", "--mount"]
_CREATE = """
import os
for i in range(5000):
    fd = os.open(f"made/f{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    os.write(fd, b"x" * 100)
    os.close(fd)
for i in range(5000):
    os.unlink(f"made/f{i}")
"""
_COMPILE = """
find source -name '*.c' -print0 | sort -z | xargs -0 -P2 -I@ sh -c 'gcc -O1 -w -Isource/include -c @ -o @.o'
ar rc all.a $(find source -name '*.o')
"""


def rows(options: argparse.Namespace) -> list[tuple[str, str]]:
    """(what, shell command in the mount), in order; a line of dots is not shown."""
    made = [
        ("find -ls, cold", "find usr etc var -ls"),
        ("find -ls, warm", "find usr etc var -ls"),
        ("tar, cold", "tar -cf - usr etc var | cat"),
        ("tar, warm", "tar -cf - usr etc var | cat"),
        ("cat everything x3", "for i in 1 2 3; do find usr etc var -type f -print0 | xargs -0 cat; done"),
    ]
    if options.repository:
        made += [
            ("...", "git config --global --add safe.directory '*'"),
            ("git status, cold", "git -C repository status"),
            ("git status, warm", "git -C repository status"),
        ]
    if options.wheels:
        install = f"{sys.executable} -m pip install -q --no-index --no-deps --no-compile --target site"
        made.append(("pip install of wheels", f"{install} {options.wheels}/*.whl"))
    if options.sources:
        made.append(("C build, 2 at a time", f"cp -r {options.sources} source\n{_COMPILE}"))
    made += [  # last: ext4 is slow to make files for a while after many were removed
        ("untar 7,500 entries", f"mkdir x && tar -xf {options.home}/some.tar -C x"),
        ("rm -r of them", "rm -r x"),
        ("create + unlink 5,000", f"mkdir made && {sys.executable} -c '{_CREATE}'"),
        ("write 512 MiB", "dd if=/dev/zero of=big bs=1M count=512 && rm big"),
    ]
    return made


def prepare(options: argparse.Namespace) -> None:
    """The layer as a tar with its index, and unpacked; once."""
    home = options.home
    if (home / "unpacked").exists():
        return
    (home / "layer").mkdir(parents=True)
    tar = home / "whole.tar"
    with open(options.tar, "rb") as source, open(tar, "wb") as target:
        subprocess.run(["tar", "--delete", "-f", "-", "./dev"], stdin=source, stdout=target, check=True)
    if options.repository:
        parent, name = options.repository.parent, options.repository.name
        words = ["tar", "-rf", str(tar), "--owner=0", "--group=0", "-C", str(parent)]
        subprocess.run([*words, "--transform", f"s,^{name},repository,", name], check=True)
    writer = LayerWriter(home / "layer")
    with open(tar, "rb") as file:
        while data := file.read(1 << 20):
            writer.write(data)
    writer.finish()
    merge_tree([home / "layer"], home / "tree")
    unpack = f"mkdir {home}/unpacked && tar -xpf {tar} -C {home}/unpacked"
    subprocess.run([*_INSIDE, "sh", "-c", unpack], check=True)
    subprocess.run(
        ["tar", "-cf", str(home / "some.tar"), "-C", str(home / "unpacked"), "usr/share", "usr/lib"], check=True
    )


def measure(options: argparse.Namespace) -> dict[str, float]:
    """One round of one side, in namespaces of its own. Seconds by row."""
    home, target = options.home, options.home / "mount"
    written = Path(tempfile.mkdtemp(dir=home, prefix="written-"))  # removed when all is over
    upper, work = written / "upper", written / "work"
    for path in (upper, work, target):
        path.mkdir(exist_ok=True)
    if options.side == "ours":
        fd = mount_fuse(str(target), "rootless", read_only=False)
        if os.fork() == 0:
            tree = open_tree(home / "tree", [home / "layer"])
            serve_union(fd, [tree], str(upper), str(work), UnionOptions(id_count=IDS))
            os._exit(0)
        os.close(fd)
    else:
        layers = f"lowerdir={home}/unpacked,upperdir={upper},workdir={work}"
        subprocess.run(["fuse-overlayfs", "-o", layers, str(target)], check=True, stderr=subprocess.DEVNULL)
    taken: dict[str, float] = {}
    environment = {**os.environ, "HOME": str(home)}
    for what, script in rows(options):
        time.sleep(0.2)
        start = time.perf_counter()
        done = subprocess.run(
            ["bash", "-c", script], cwd=target, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        taken[what] = time.perf_counter() - start
        if done.returncode and what != "C build, 2 at a time":
            raise SystemExit(f"{what}: {done.stderr.decode()[-500:]}")
    subprocess.run(["umount", str(target)], check=True)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tar", type=Path, required=True)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    for name in ("wheels", "sources", "repository"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        sys.stdout.write(json.dumps(measure(options)))
        return
    prepare(options)
    taken: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    for _ in range(options.rounds):
        for side in taken:
            words = [*_INSIDE, sys.executable, "-m", "tests.bench.union", *sys.argv[1:], "--side", side]
            taken[side].append(json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout))
    subprocess.run([*_INSIDE, "sh", "-c", f"rm -rf {options.home}/written-*"], check=True)
    print(f"{'':26}{'fuse':>9}{'fuse-overlayfs':>16}{'ratio':>8}")
    ratios = []
    for what, _ in rows(options):
        if what == "...":
            continue
        ours, theirs = (statistics.median(one[what] for one in taken[side]) for side in taken)
        ratios.append(ours / theirs)
        print(f"{what:26}{ours:8.3f}s{theirs:15.3f}s{ours / theirs:8.2f}")
    print(f"{'geometric mean':51}{math.exp(statistics.mean(map(math.log, ratios))):8.2f}")


if __name__ == "__main__":
    main()
