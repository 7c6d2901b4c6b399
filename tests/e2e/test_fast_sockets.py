"""Fast sockets as a user sees them, to a machine outside. The user there has one id alone (see beside_far_machine)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.busybox import busybox_tar
from tests.e2e.conftest import Installation, until
from tests.e2e.test_survival import own_processes

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]
TOP = Path(__file__).parent.parent.parent
GREETING = "nc 203.0.113.2 80"
HELD = "nc 203.0.113.2 81"


def test_connections_are_none_of_the_containers_namespace(fresh: Installation) -> None:
    beside_far_machine(fresh, "connections")


def beside_far_machine(fresh: Installation, function: str) -> None:
    words = ["unshare", "--map-current-user", "--keep-caps", "--net", sys.executable, "-m"]
    command = [*words, "tests.e2e.beside_far_machine", function, str(fresh.home), str(fresh.command)]
    done = subprocess.run(command, cwd=TOP, env=fresh.environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def connections(rootless: Installation) -> None:
    rootless("import", "-c", 'CMD ["/bin/sh"]', "-", "busybox", stdin=busybox_tar())
    rootless("network", "create", "-o", "fast=true", "quick")
    assert b"neither true nor false" in rootless("network", "create", "-o", "fast=very", "slow", check=1).stderr
    for name, network, own in (("one", "quick", 0), ("two", "bridge:fast", 0), ("three", "bridge", 1)):
        rootless("run", "-d", "--name", name, "--network", network, "busybox", "sh", "-c", HELD)
        until(lambda name=name: rootless.out("logs", name) == "hello")  # type: ignore[misc]
        if name == "one":
            (supervisor,) = supervisors(rootless)
            os.kill(supervisor, signal.SIGKILL)
        assert rootless.out("exec", name, "sh", "-c", GREETING) == "hello"
        assert len(rootless.out("exec", name, "tail", "-n", "+2", "/proc/net/tcp").splitlines()) >= own
        assert own or not rootless.out("exec", name, "tail", "-n", "+2", "/proc/net/tcp")
    rootless("network", "disconnect", "quick", "one")
    rootless("network", "connect", "bridge", "one")
    rootless("exec", "-d", "one", "sh", "-c", HELD)
    until(lambda: rootless.out("exec", "one", "tail", "-n", "+2", "/proc/net/tcp") != "")
    only_root = ("run", "--rm", "--network", "bridge:fast", "--cap-add", "NET_ADMIN", "busybox", "sh", "-c", GREETING)
    done = rootless(*only_root)
    assert done.stdout == b"hello\n"
    assert b"no fast sockets: with NET_ADMIN" in done.stderr
    rootless("rm", "-f", "one", "two", "three")
    until(lambda: not supervisors(rootless))


def supervisors(rootless: Installation) -> list[int]:
    """Of this engine's launcher alone: other tests' and a user's own may run beside."""
    own, found = f"ROOTLESS_RUNTIME_DIR={rootless.home}/".encode(), []
    for pid, name, _ in own_processes():
        with contextlib.suppress(OSError):  # another user namespace's cannot be read, or it has just ended
            if name == "rl-fast" and own in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
    return found
