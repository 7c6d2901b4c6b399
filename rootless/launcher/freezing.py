"""A container's processes stopped for a while, where there is no cgroup of its own to freeze: SIGSTOP to each of them,
and SIGCONT to those alone that it has stopped. Done in a child of the launcher: root in U may signal them all.

The first process comes first: what it would start cannot come any more. Then parents before their children, each only
when the one before has come to a stop: a shell that still runs would see its child as stopped, and say so. They are
looked for again until no further one is found, and go on in the opposite order."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

NS_GET_PARENT = 0xB702  # include/uapi/linux/nsfs.h
MAX_PASSES = 100
STOP_SECONDS = 1.0  # one that waits for a file system stops later


@contextmanager
def frozen(pidfd: int) -> Iterator[None]:
    """Those in the user namespace of a process, which each container has of its own, and in namespaces below it. One
    that was stopped before stays that way. Raises OSError."""
    stopped: list[int] = []
    try:
        _stop(_pid_of(pidfd), stopped)
        yield
    finally:
        for fd in reversed(stopped):
            _signal(fd, signal.SIGCONT)
            os.close(fd)


def _stop(first: int, stopped: list[int]) -> None:
    namespace = os.stat(f"/proc/{first}/ns/user").st_ino
    if namespace == os.stat("/proc/self/ns/user").st_ino:
        return
    inside: dict[int, bool] = {namespace: True}
    seen: set[int] = set()
    until = time.monotonic() + STOP_SECONDS
    for _ in range(MAX_PASSES):
        new = [pid for pid in _processes() if pid not in seen and _is_inside(pid, inside)]
        if not new:
            break
        seen.update(new)
        for pid in sorted(new, key=lambda pid: (pid != first, _started(pid), pid)):
            if (fd := _open(pid, inside)) is None:
                continue
            if not _is_stopped(pid) and _signal(fd, signal.SIGSTOP):
                stopped.append(fd)
                while time.monotonic() < until and not _is_stopped(pid):
                    time.sleep(0.0002)
            else:
                os.close(fd)


def _pid_of(pidfd: int) -> int:
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        return int(file.read().partition("\nPid:")[2].split()[0])


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _open(pid: int, inside: dict[int, bool]) -> int | None:
    """A pidfd of a process that is still one of them."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return None
    if _is_inside(pid, inside):
        return fd
    os.close(fd)
    return None


def _is_inside(pid: int, inside: dict[int, bool]) -> bool:
    """`inside` is what is known of namespaces, by inode."""
    try:
        fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False  # somebody else's, or gone
    above: list[int] = []
    try:
        while (inode := os.fstat(fd).st_ino) not in inside:
            above.append(inode)
            try:
                parent = fcntl.ioctl(fd, NS_GET_PARENT)
            except OSError as error:
                if error.errno != errno.EPERM:  # above what we may see
                    raise
                inside.update(dict.fromkeys(above, False))
                return False
            os.close(fd)
            fd = parent
        inside.update(dict.fromkeys(above, inside[inode]))
        return inside[inode]
    finally:
        os.close(fd)


def _started(pid: int) -> int:
    """When, in clock ticks (proc_pid_stat(5), field 22): a parent is older than its child, whatever their numbers."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _is_stopped(pid: int) -> bool:
    """With all its threads; one that has gone counts."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/stat", "rb") as file:
                if file.read().rpartition(b")")[2].split()[0] not in b"TtZX":
                    return False
    except (FileNotFoundError, ProcessLookupError):
        pass
    return True


def _signal(fd: int, number: signal.Signals) -> bool:
    try:
        signal.pidfd_send_signal(fd, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
