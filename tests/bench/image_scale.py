"""What an entry costs, from 1,000 entries to 1,000,000: indexing, opening, a cold walk and a warm one.

    python -m tests.bench.image_scale [--most N] [--peer-most N] [--flat] [--plot FILE.svg]

As an ordinary user, from the top of the source tree. Trees of empty files, 100 in a directory (--flat: all in one).
Beside it a cold walk of kernel overlayfs over the same tree unpacked, up to --peer-most entries."""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fuse_overlay import LayerWriter, merge_tree, open_tree
from tests.bench.image_server import _discard, ours, overlay
from tests.fuse_overlay.mounting import enter_namespaces, in_child

WALK = 'find "$M" -printf "%s" >/dev/null'
Measured = dict[str, float]


def names(count: int, flat: bool) -> Iterator[tuple[str, bytes]]:
    """(name, type) of as many members."""
    for number in range(count):
        if flat:
            yield f"file{number:07}", tarfile.REGTYPE
        elif number % 100 == 0:
            yield f"{number // 10000:03}/{number // 100:05}", tarfile.DIRTYPE
        else:
            yield f"{number // 10000:03}/{number // 100:05}/file{number % 100:02}", tarfile.REGTYPE


def archive(count: int, flat: bool) -> Iterator[bytes]:
    parts: list[bytes] = []
    for name, kind in names(count, flat):
        info = tarfile.TarInfo(name)
        info.type = kind
        parts.append(info.tobuf(tarfile.USTAR_FORMAT))
        if len(parts) == 2048:
            yield b"".join(parts)
            parts.clear()
    yield b"".join([*parts, bytes(10240)])


def timed(command: str, merged: str) -> float:
    start = time.perf_counter()
    subprocess.run(["sh", "-ec", command], check=True, env={**os.environ, "M": merged})
    return time.perf_counter() - start


def measure(count: int, flat: bool, peer: bool, scratch: str) -> Measured:
    """Seconds, and MiB of memory to make the index."""
    layer = Path(scratch) / f"layer{count}"
    layer.mkdir()
    found: Measured = {}
    pieces = list(archive(count, flat))
    pid = os.fork()  # a process of its own: its greatest size is the index's
    if pid == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        writer = LayerWriter(layer)
        for piece in pieces:
            writer.write(piece)
        writer.finish()
        taken = time.perf_counter() - start
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        (layer / "result").write_text(f"{taken} {grown / 1024}")
        os._exit(0)
    os.waitpid(pid, 0)
    found["index"], found["index MiB"] = map(float, (layer / "result").read_text().split())
    merge_tree([layer], layer / "tree")
    start = time.perf_counter()
    open_tree(layer / "tree", [layer]).close()
    found["open"] = time.perf_counter() - start
    with ours(str(layer), scratch) as merged:
        found["cold walk"] = timed(WALK, merged)
        found["warm walk"] = timed(WALK, merged)
    if peer:
        unpacked = f"{scratch}/unpacked{count}"
        os.mkdir(unpacked)
        subprocess.run(["tar", "-C", unpacked, "-xf", layer / "layer.tar"], check=True)
        with overlay(unpacked, scratch) as merged:
            timed(WALK, merged)
        with overlay(unpacked, scratch) as merged:
            found["peer's cold walk"] = timed(WALK, merged)
        _discard(unpacked)
    _discard(str(layer))
    return found


def plot(results: dict[int, Measured], path: Path) -> None:
    """Microseconds an entry over the number of entries, both logarithmic."""
    import math

    series = {"index": "#888", "cold walk": "#06c", "warm walk": "#2a2", "peer's cold walk": "#c40"}
    width, height, left, bottom = 640, 360, 60, 320

    def place(count: float, microseconds: float) -> str:
        x = left + (math.log10(count) - 3) / 3 * 430
        return f"{x:.0f},{bottom - (math.log10(microseconds) + 0.5) / 3 * 280:.0f}"

    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">']
    lines.append('<rect width="100%" height="100%" fill="white"/>')
    for value in (1, 3, 10, 30, 100):
        y = place(1000, value).split(",")[1]
        lines.append(f'<path d="M{left} {y}H490" stroke="#ddd"/><text x="5" y="{y}" font-size="12">{value} µs</text>')
    for count in results:
        x = place(count, 1).split(",")[0]
        lines.append(f'<text x="{x}" y="340" font-size="12" text-anchor="middle">{count:,}</text>')
    for name, colour in series.items():
        points = [place(n, found[name] / n * 1e6) for n, found in results.items() if name in found]
        if points:
            lines.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"/>')
            x, y = points[-1].split(",")
            lines.append(f'<text x="{int(x) + 8}" y="{int(y) + 4}" font-size="12" fill="{colour}">{name}</text>')
    lines.append("</svg>")
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=int, default=1_000_000)
    parser.add_argument("--peer-most", type=int, default=100_000)
    parser.add_argument("--flat", action="store_true")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    scratch = tempfile.mkdtemp(prefix="rootless-bench-", dir=os.environ.get("TMPDIR", "/var/tmp"))

    def child() -> None:
        enter_namespaces()
        results: dict[int, Measured] = {}
        for count in (1_000, 10_000, 100_000, 1_000_000):
            if count <= options.most:
                results[count] = found = measure(count, options.flat, count <= options.peer_most, scratch)
                print(f"{count:>9}", *(f"{name} {value * 1e6 / count:.2f} µs" for name, value in found.items()
                                       if name not in ("open", "index MiB")),
                      f"open {found['open'] * 1000:.2f} ms, memory to index {found['index MiB']:.0f} MiB",
                      sep="  ", flush=True)  # fmt: skip
        if options.plot is not None:
            plot(results, options.plot)

    try:
        in_child(child)
    finally:
        _discard(scratch)


if __name__ == "__main__":
    main()
