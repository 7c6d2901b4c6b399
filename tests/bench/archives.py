"""Archives beside rootless podman's, in one run, alternating.

    python -m tests.bench.archives --tar FILE [--rounds N] [--podman WORDS…]

As an ordinary user with `rootless` and `podman` on PATH. FILE is the tar of a Debian tree. Prints a table: what, ours,
theirs (milliseconds), the ratio. podman uses native overlay, its fastest driver."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.__main__ import REST_SECONDS, command

SCRIPT = "cp -r /usr/share /made; rm -r /usr/share/doc; echo x > /etc/motd"
# what, commands before (not timed), the command; {here} is a directory of the engine's, {here}/out is not there
CASES = [
    ("save", [], "save -o {here}/out bench"),
    ("export", [], "export -o {here}/out cc"),
    ("diff", [], "diff cc"),
    ("commit", [], "commit -q cc made"),
    ("cp of /usr/share out", [], "cp cc:/made {here}/out"),
    ("cp of /usr/share in", ["cp cc:/made {here}/out"], "cp {here}/out cc:/again"),
    ("rmi", ["rm -f cc", "rmi -f made", "image prune -f", "load -q -i {here}/kept"], "rmi bench"),
    ("load", ["load -q -i {here}/kept", "rmi bench"], "load -q -i {here}/kept"),
]


@contextmanager
def temporary_home() -> Iterator[Path]:
    """Removed by podman, which can: some files are of subordinate ids."""
    path = Path(tempfile.mkdtemp(prefix="rootless-bench-"))
    try:
        yield path
    finally:
        subprocess.run(["podman", "unshare", "rm", "-rf", str(path)], capture_output=True, timeout=120)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tar", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--podman", default="podman --cgroup-manager=cgroupfs --runtime=runc")
    options = parser.parse_args()
    with temporary_home() as home:
        engines = {
            "rootless": ["rootless"],
            "podman": [*shlex.split(options.podman), "--storage-driver=overlay"],
        }
        environment = {
            **os.environ,
            "HOME": str(home),  # podman's commit knows its store by no other way
            "ROOTLESS_DATA_ROOT": f"{home}/data",
            "ROOTLESS_STATE_ROOT": f"{home}/state",
            "ROOTLESS_RUNTIME_DIR": f"{home}/run",
        }

        def do(name: str, text: str) -> float:
            """Milliseconds of a command."""
            words = [word.format(here=home / name) for word in shlex.split(text)]
            if name == "rootless" and words[0] == "commit":
                words.remove("-q")  # prints nothing but the id anyway
            start = time.perf_counter()
            command([*engines[name], *words], environment)()
            return (time.perf_counter() - start) * 1000

        print(f"{'':34}{'rootless':>10}{'podman':>10}{'ratio':>8}", flush=True)
        try:
            for name in engines:
                (home / name).mkdir()
                do(name, f"import {options.tar} bench")
                do(name, f"run --name cc --network none bench sh -c {shlex.quote(SCRIPT)}")
                do(name, "save -o {here}/kept bench")
            for what, before, action in CASES:
                times: dict[str, list[float]] = {name: [] for name in engines}
                for number in range(options.rounds + 1):
                    for name in engines:
                        for path in home.glob("*/out"):
                            shutil.rmtree(path) if path.is_dir() else path.unlink()
                        for text in before:
                            if not number or text.startswith(("load", "cp", "rmi bench")):
                                do(name, text)
                        time.sleep(REST_SECONDS)
                        times[name].append(do(name, action))
                mine, theirs = (statistics.median(times[name][1:]) for name in engines)
                print(f"{what:34}{mine:8.0f}ms{theirs:8.0f}ms{mine / theirs:8.2f}", flush=True)
        finally:
            subprocess.run(["rootless", "system", "stop"], env=environment, capture_output=True, timeout=60)
            subprocess.run([*engines["podman"], "rmi", "-fa"], capture_output=True, timeout=60)


if __name__ == "__main__":
    main()
