"""kill -9 of the engine and of the image server: the container does not notice, and nothing is forgotten."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Installation

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]
BIG = hashlib.sha256(bytes(range(256)) * (4 << 12)).hexdigest()


def own_processes() -> Iterator[tuple[int, str, list[str]]]:
    """(pid, name, command line) of the processes of this user."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if entry.stat().st_uid == os.getuid():
                    words = (entry / "cmdline").read_bytes().decode().split("\0")
                    yield int(entry.name), (entry / "comm").read_text().strip(), words
            except OSError:
                continue


def engine_pid(rootless: Installation) -> int:
    return int(rootless.out("system", "status", "--format", "{{.EnginePid}}"))


def test_the_engine_killed_while_a_container_runs(rootless: Installation, name: str) -> None:
    script = "i=0; until [ -e /enough ]; do echo $i; i=$((i+1)); sleep 0.05; done; echo end; exit 9"
    rootless("run", "-d", "--name", name, "busybox", "sh", "-c", script)
    pid = rootless.out("inspect", "-f", "{{.State.Pid}}", name)
    os.kill(engine_pid(rootless), signal.SIGKILL)
    assert rootless.out("inspect", "-f", "{{.State.Pid}} {{.State.Running}}", name) == f"{pid} true"
    rootless("exec", name, "touch", "/enough")
    os.kill(engine_pid(rootless), signal.SIGKILL)
    assert rootless.out("wait", name) == "9"
    *numbers, last = rootless.out("logs", name).split()
    assert (numbers, last) == ([str(i) for i in range(len(numbers))], "end")


@pytest.mark.parametrize("path", ["/nosuch", "/images/load", "/build", "/containers/create"])
def test_a_client_that_breaks_off_what_it_sends_ends_its_own_connection_only(rootless: Installation, path: str) -> None:
    before = engine_pid(rootless)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(rootless.socket))
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 20000000\r\n\r\n"
        client.sendall(head.encode() + b"x" * 1000)
        if path in ("/nosuch", "/build"):
            assert b"404" in client.recv(4096)  # before it has read what was to come
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(rootless.socket))
        client.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" in client.recv(4096)
    assert engine_pid(rootless) == before


def test_the_exit_of_a_container_without_an_engine_is_kept(rootless: Installation, name: str) -> None:
    rootless("run", "-d", "--name", name, "busybox", "sh", "-c", "sleep 0.3; echo bye; exit 5")
    pid = int(rootless.out("inspect", "-f", "{{.State.Pid}}", name))
    os.kill(engine_pid(rootless), signal.SIGKILL)
    end = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert rootless.out("wait", name) == "5"
    assert rootless.out("logs", name) == "bye"


def test_the_image_server_killed_in_the_middle_of_reads(rootless: Installation, name: str) -> None:
    script = "while :; do sha256sum /var/big | cut -d' ' -f1; done"
    rootless("run", "-d", "--name", name, "busybox", "sh", "-c", script)
    killed: set[int] = set()
    end = time.monotonic() + 30
    while len(killed) < 3 and time.monotonic() < end:
        for pid, comm, _ in own_processes():
            if comm.startswith("rl-image") and pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
                rootless("exec", name, "sh", "-c", "ls -lR / >/dev/null 2>&1; sha256sum /bin/busybox", timeout=30)
    assert len(killed) >= 3
    rootless("stop", "-t", "0", name)
    sums = rootless.out("logs", name).split()
    assert sums
    assert set(sums) == {BIG}


def test_a_foreground_run_outlives_its_engine(rootless: Installation, name: str) -> None:
    script = "echo begun; read x; echo got $x; exit 9"
    words = [rootless.command, "run", "-i", "--rm", "--name", name, "busybox", "sh", "-c", script]
    pipe = subprocess.PIPE
    running = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, env=rootless.environment)
    assert running.stdin is not None
    assert running.stdout is not None
    assert running.stderr is not None
    assert running.stdout.readline() == b"begun\n"
    os.kill(engine_pid(rootless), signal.SIGKILL)
    assert b"the engine was lost and started again" in running.stderr.readline()
    rootless("ps")
    running.stdin.write(b"this\n")
    running.stdin.flush()
    assert running.stdout.read() == b"got this\n"
    assert running.wait(20) == 9
