"""A long run by hand: a network's processes under traffic and churn.

    python -m tests.stress.network --minutes 30 [--far 198.51.100.2]

As an ordinary user with `rootless` on PATH, with an engine and state of its own; the image is `host`. At once, all the
time: requests from the host to a published port (over both versions of IP) and datagrams to another; from containers
that live for 20 s each, to another by name and to the host's own address; with --far also to a server on another
machine (HTTP at port 28410), with and without fast sockets; containers that ask for a name and go; connect and
disconnect of a second network. Thirty connections are opened at the start and left alone.

Once a minute: how often each was done, how often it failed, and memory and descriptors of every process of the engine.
Exit code 1 where anything failed."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

_WEB, _UDP, _OUT = 28400, 28401, 28410
_SERVER = """import http.server, socket, threading
class Web(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
web = Web(("::", 80), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=web.serve_forever).start()
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(("::", 81))
while True:
    data, client = s.recvfrom(9000)
    s.sendto(data, client)
"""
_CLIENT = """import sys, time, urllib.request
done = failed = 0
end = time.monotonic() + 20
while time.monotonic() < end:
    for url in sys.argv[1:]:
        try:
            urllib.request.urlopen(url, timeout=10).read()
            done += 1
        except OSError as error:
            failed += 1
            print(repr(error), file=sys.stderr)
    time.sleep(0.02)
print(done, failed)
"""


class Soak:
    def __init__(self, home: Path, seconds: float) -> None:
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.end = time.monotonic() + seconds
        self.environment = {
            **os.environ,
            "ROOTLESS_DATA_ROOT": str(home / "data"),
            "ROOTLESS_STATE_ROOT": str(home / "state"),
            "ROOTLESS_RUNTIME_DIR": str(home / "run"),
            "ROOTLESS_CONFIG": str(home / "config.toml"),
        }

    def __call__(self, *words: str) -> str:
        """What `rootless WORDS` prints; raises ChildProcessError where it fails."""
        done = subprocess.run(
            ["rootless", *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise ChildProcessError(f"{' '.join(words[:3])}: exit code {done.returncode}: {done.stderr[-300:]}")
        return done.stdout

    def repeat(self, what: str, pause_seconds: float, act: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            while time.monotonic() < self.end:
                try:
                    act()
                    self.done[what] += 1
                except (OSError, subprocess.SubprocessError) as error:
                    self.failed[what] += 1
                    print(time.strftime("%T"), what, "failed:", repr(error), flush=True)
                time.sleep(pause_seconds)

        return threading.Thread(target=run)

    def from_containers(self, what: str, network: str, *urls: str) -> threading.Thread:
        def act() -> None:
            done, failed = map(int, self("run", "--rm", "--network", network, "host", *_python(_CLIENT), *urls).split())
            self.done[what] += done - 1  # `repeat` counts one for the container
            self.failed[what] += failed

        return self.repeat(what, 0, act)

    def processes(self) -> Iterator[str]:
        """Name, resident kB and descriptors of each process that has this engine's environment."""
        mine = f"ROOTLESS_STATE_ROOT={self.environment['ROOTLESS_STATE_ROOT']}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                if not any(word.startswith(b"rootless.") for word in words):
                    continue
                if mine not in (process / "environ").read_bytes().split(b"\0"):
                    continue
                name = (process / "comm").read_text().strip()
                if not name.startswith("rl-"):
                    name = (
                        next(word for word in words if word.startswith(b"rootless.")).decode().removeprefix("rootless.")
                    )
                status = (process / "status").read_text()
                rss = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
                yield f"{name} {rss} kB {len(list((process / 'fd').iterdir()))} fds"

    def watch(self) -> None:
        print(time.strftime("%T"), dict(sorted(self.done.items())), "failed:", dict(+self.failed))
        print("   ", "; ".join(sorted(self.processes())), flush=True)


def _python(script: str) -> tuple[str, str, str]:
    return "/usr/bin/python3", "-c", script


def _fetch(url: str) -> None:
    urllib.request.urlopen(url, timeout=10).read()


def _echo(udp: socket.socket, count: Iterator[int]) -> None:
    sent = str(next(count)).encode() * 100
    udp.send(sent)
    while udp.recv(9000) != sent:  # an answer that came too late for the one before
        pass


def _host_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.connect(("192.0.2.1", 9))
        return str(asked.getsockname()[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--far", help="address of another machine")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rootless-soak-") as home:
        soak = Soak(Path(home), asked.minutes * 60)
        try:
            return _run(soak, asked.far)
        finally:
            soak("system", "stop", "-f")


def _run(soak: Soak, far: str | None) -> int:
    soak("network", "create", "--ipv6", "soak")
    soak("network", "create", "soak2")
    web = ("-p", f"{_WEB}:80", "-p", f"{_UDP}:81/udp", "-w", "/usr/share/doc/python3")
    soak("run", "-d", "--name", "web", "--network", "soak", *web, "host", *_python(_SERVER))
    here = subprocess.Popen(
        ["/usr/bin/python3", "-m", "http.server", str(_OUT), "--directory", "/usr/share/doc/python3"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(2)
    idle = [socket.create_connection(("127.0.0.1", _WEB), 10) for _ in range(30)]
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.settimeout(5)
    udp.connect(("127.0.0.1", _UDP))
    count = iter(range(10**9))

    def published() -> None:
        _fetch(f"http://127.0.0.1:{_WEB}/")
        _fetch(f"http://[::1]:{_WEB}/")

    def come_and_go() -> None:
        said = soak("run", "--rm", "--network", "soak", "host", "getent", "hosts", "web")
        if "web" not in said:
            raise ChildProcessError(f"no address for web: {said!r}")

    def join_and_leave() -> None:
        soak("network", "connect", "soak2", "web")
        soak("network", "disconnect", "soak2", "web")

    threads = [
        soak.repeat("published", 0.03, published),
        soak.repeat("datagram", 0.1, lambda: _echo(udp, count)),
        soak.repeat("container", 2, come_and_go),
        soak.repeat("connect", 2, join_and_leave),
        soak.from_containers("by name", "soak", "http://web/"),
        soak.from_containers("to the host", "soak", f"http://{_host_address()}:{_OUT}/"),
    ]
    if far:
        threads += [
            soak.from_containers("out", "soak", f"http://{far}:{_OUT}/"),
            soak.from_containers("fast", "bridge:fast", f"http://{far}:{_OUT}/"),
        ]
    for thread in threads:
        thread.start()
    try:
        while time.monotonic() < soak.end:
            soak.watch()
            time.sleep(min(60, max(0, soak.end - time.monotonic())))
    finally:
        soak.end = 0
        for thread in threads:
            thread.join()
        here.terminate()
        for connection in idle:
            connection.close()
    soak.watch()
    return 1 if soak.failed.total() else 0


if __name__ == "__main__":
    sys.exit(main())
