"""Processes of a PID namespace stopped and continued, by the real kernel."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.launcher.freezing import frozen

# a namespace within the namespace, too
SCRIPT = "sleep 1000 & unshare -pf sleep 1000 & sleep 1000 & kill -STOP $!; echo ready; wait"


def below(pid: int) -> list[int]:
    """A process and its descendants, the parents first."""
    found = [pid]
    for one in found:
        found += [int(word) for word in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
    return found


def stopped(pids: list[int]) -> list[bool]:
    return [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T" for pid in pids]


@pytest.fixture
def inside() -> Iterator[list[int]]:
    """The processes of a PID namespace: sh, sleep, unshare, a sleep that is stopped, and what unshare has started."""
    with subprocess.Popen(["unshare", "-Urpf", "sh", "-c", SCRIPT], stdout=subprocess.PIPE) as outer:
        assert outer.stdout is not None
        outer.stdout.readline()
        while len(found := below(outer.pid)[1:]) < 5 or sum(stopped(found)) != 1:
            pass
        yield found
        os.kill(found[0], signal.SIGKILL)


def test_all_stand_still_and_go_on_but_for_one_that_was_stopped_before(inside: list[int]) -> None:
    before = stopped(inside)
    pidfd = os.pidfd_open(inside[0])
    with frozen(pidfd):
        assert all(stopped(inside))
    while stopped(inside) != before:
        pass
    os.close(pidfd)


def test_those_that_share_our_pid_namespace_too() -> None:
    with subprocess.Popen(["unshare", "-Ur", "sh", "-c", "sleep 1000 & echo; wait"], stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        shell.stdout.readline()
        pidfd = os.pidfd_open(shell.pid)
        found = below(shell.pid)
        with frozen(pidfd):
            assert stopped(found) == [True, True]
        while any(stopped(found)):
            pass
        os.close(pidfd)
        for pid in found:
            os.kill(pid, signal.SIGKILL)


def test_they_go_on_when_it_fails(inside: list[int]) -> None:
    pidfd = os.pidfd_open(inside[0])
    with pytest.raises(BrokenPipeError), frozen(pidfd):
        raise BrokenPipeError
    while sum(stopped(inside)) != 1:
        pass
    os.close(pidfd)


def test_a_shell_with_job_control_sees_nothing_of_it() -> None:
    outer, terminal = pty.fork()
    if not outer:
        os.execvp("unshare", ["unshare", "-Urpf", "bash", "--norc", "-i"])
    os.write(terminal, b"sleep 1; echo do''ne\n")
    while not any(b"sleep\0" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in below(outer)):
        pass
    shell = below(outer)[1]
    pidfd = os.pidfd_open(shell)
    for _ in range(20):
        with frozen(pidfd):
            pass
    shown = b""
    while b"done" not in shown:
        shown += os.read(terminal, 4096)
    assert b"Stopped" not in shown
    os.kill(shell, signal.SIGKILL)
    os.waitpid(outer, 0)
    os.close(terminal)
    os.close(pidfd)


def test_our_own_namespace_is_left_alone() -> None:
    pidfd = os.pidfd_open(os.getpid())
    with frozen(pidfd):
        pass
    os.close(pidfd)
