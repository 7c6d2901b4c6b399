"""`make bench`: medians of everyday commands beside rootless podman's, in one run, alternating.

    python -m tests.bench [--tar FILE] [--rounds N] [--podman WORDS…]

As an ordinary user with `rootless` and `podman` on PATH. FILE is the tar of a Debian tree (mmdebstrap makes one); it is
imported by both as `bench`. Prints a table: what, ours, theirs (milliseconds), the ratio."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shlex
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

Action = Callable[[], None]
REST_SECONDS = 0.3


def command(words: list[str], environment: dict[str, str]) -> Action:
    def run() -> None:
        done = subprocess.run(words, env=environment, capture_output=True, stdin=subprocess.DEVNULL, timeout=120)
        if done.returncode:
            raise SystemExit(f"{shlex.join(words)} exited {done.returncode}: {done.stderr.decode()}")

    return run


def medians(rounds: int, ours: Action, theirs: Action | None, before: Action | None = None) -> list[float]:
    """Milliseconds, one after the other in each round; the first round is not counted.

    Each begins on a machine at rest: podman tidies up in the background for a while after its command is over."""
    times: list[list[float]] = [[], []]
    for number in range(rounds + 1):
        for taken, action in zip(times, (ours, theirs), strict=True):
            if action is None:
                continue
            if before is not None and action is ours:
                before()
            time.sleep(REST_SECONDS)
            start = time.perf_counter()
            action()
            if number:
                taken.append((time.perf_counter() - start) * 1000)
    return [statistics.median(taken) if taken else float("nan") for taken in times]


class ApiStart:
    """POST /containers/ID/start, with no command line in between; create, wait and remove are not timed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _ask(self, method: str, target: str, body: object = None) -> bytes:
        connection = http.client.HTTPConnection("docker")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self._path))
        data = None if body is None else json.dumps(body)
        connection.request(method, "/v1.47" + target, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status >= 400:
            raise SystemExit(f"{method} {target}: {answer.status} {content!r}")
        return content

    def median(self, rounds: int) -> float:
        taken = []
        for _ in range(rounds):
            made = json.loads(self._ask("POST", "/containers/create", {"Image": "bench", "Cmd": ["true"]}))["Id"]
            start = time.perf_counter()
            self._ask("POST", f"/containers/{made}/start")
            taken.append((time.perf_counter() - start) * 1000)
            self._ask("POST", f"/containers/{made}/wait")
            self._ask("DELETE", f"/containers/{made}")
        return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tar", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument(
        "--podman", default="podman --cgroup-manager=cgroupfs --runtime=runc", help="the peer's command"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rootless-bench-", ignore_cleanup_errors=True) as home:
        # its fastest driver; without the words it may fall back to copying every file
        peer = [*shlex.split(options.podman), "--storage-driver=overlay", f"--root={home}/podman"]
        environment = {
            **os.environ,
            "ROOTLESS_DATA_ROOT": f"{home}/data",
            "ROOTLESS_STATE_ROOT": f"{home}/state",
            "ROOTLESS_RUNTIME_DIR": f"{home}/run",
        }

        def ours(*words: str) -> Action:
            return command(["rootless", *words], environment)

        def theirs(*words: str) -> Action:
            return command([*peer, *words], environment)

        rows: list[tuple[str, list[float]]] = []
        tar = str(options.tar)
        try:
            ours("import", tar, "bench")()
            theirs("import", "-q", tar, "bench")()
            run = "run", "--rm", "bench", "true"
            rows.append(("run --rm debian true, engine up", medians(options.rounds, ours(*run), theirs(*run))))
            rows.append(("ps", medians(options.rounds, ours("ps"), theirs("ps"))))
            start = ApiStart(Path(home) / "run" / "docker.sock")
            rows.append(("start through the API", [start.median(options.rounds), float("nan")]))
            stop = ours("system", "stop")
            rows.append(("run --rm debian true, no engine", medians(options.rounds, ours(*run), theirs(*run), stop)))

            def remove() -> None:
                ours("rmi", "-f", "bench")()
                theirs("rmi", "-f", "bench")()

            imports = [ours("import", tar, "bench"), theirs("import", "-q", tar, "bench")]
            rows.append(("import of the Debian tar", medians(3, imports[0], imports[1], remove)))
        finally:
            subprocess.run(["rootless", "system", "stop"], env=environment, capture_output=True, timeout=60)
            subprocess.run([*peer, "rmi", "-f", "bench"], capture_output=True, timeout=60)
    print(f"{'':34}{'rootless':>10}{'podman':>10}{'ratio':>8}")
    for what, (mine, peers) in rows:
        print(f"{what:34}{mine:8.0f}ms{peers:8.0f}ms{mine / peers:8.2f}")


if __name__ == "__main__":
    main()
