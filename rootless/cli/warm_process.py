"""Turns a fork of the warm server into the process the client would have been, or refuses. See `warm`."""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

import rootless

# what is imported before the first command: all that common commands need; rich is not, it is rarely needed
PRELOADED = [
    "rootless.settings",
    "rootless.client.client",
    "rootless.client.engine_start",
    "rootless.cli.program",
    "rootless.cli.running",
    "rootless.cli.interactive",
    "rootless.cli.pulling",
    "rootless.cli.archives",
    "rootless.cli.engine_state",
    "rootless.cli.template.execute",
    "csv",
    "fcntl",
]
NAMESPACES = ("user", "mnt", "pid", "net", "uts", "ipc", "time")
# of /proc/PID/status: what a fork of ours cannot change, or should not
COMPARED = (b"Uid", b"Gid", b"Groups", b"CapPrm", b"CapEff", b"CapBnd", b"CapAmb", b"NoNewPrivs", b"Seccomp", b"SigBlk")
LIMITS = tuple(sorted(value for name, value in vars(resource).items() if name.startswith("RLIMIT_")))

_libc = ctypes.CDLL(None)


class Refused(Exception):
    """The client has to do it in its own process."""


def preload() -> None:
    """Import what commands need, and do once what they all do."""
    for name in PRELOADED:
        importlib.import_module(name)
    from rootless.cli import table

    for group in (
        table.COMMANDS,
        table.CONTAINER,
        table.IMAGE,
        table.MANIFEST,
        table.VOLUME,
        table.NETWORK,
        table.SYSTEM,
    ):
        for entry in group.values():
            importlib.import_module(f"rootless.cli.commands.{entry.module}")
    from rootless.cli.program import root

    root()


def die_with_parent(number: int) -> None:
    """The signal the kernel sends us when our parent dies; 0 for none (prctl(2), PR_SET_PDEATHSIG)."""
    _libc.prctl(1, number, 0, 0, 0)


def rehearse() -> None:
    """Do, with no effect, what most commands do: the pages this touches are then no longer shared with the server,
    and the command does not have to wait for the kernel to copy them."""
    import contextlib

    import click
    import h11

    from rootless import settings
    from rootless.cli import container_rows, creation, listing
    from rootless.cli.commands import ps, run
    from rootless.cli.program import root

    with contextlib.suppress(Exception):
        outer = click.Context(root(), info_name="rootless")
        ps.command.make_context("ps", ["-a"], parent=outer)
        words = ["--rm", "-e", "A=b", "image", "command"]
        inner = run.command.make_context("run", words, parent=outer)
        options = {name: value for name, value in inner.params.items() if name != "args"}
        creation.body("image", ["command"], options, {}, "/")
        container = {"Id": "0" * 64, "Names": ["/name"], "Image": "image", "Command": "command", "Created": 1}
        listing.render([container_rows.row(container, True, 2.0)], container_rows.HEADERS, "", container_rows.TABLE)
        settings.load({"HOME": "/nonexistent"})
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="GET", target="/", headers=[("Host", "docker")]))
        client.send(h11.EndOfMessage())
        client.receive_data(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Type: application/json\r\n\r\n[]\n")
        while client.their_state is not h11.DONE:
            client.next_event()


@dataclass(frozen=True)
class Installation:
    """What a client has to have in common with us."""

    executable_directory: bytes
    package: os.stat_result
    python_variables: frozenset[bytes]
    namespaces: tuple[str, ...]
    root: tuple[int, int]
    status: dict[bytes, bytes]

    @classmethod
    def here(cls) -> Installation:
        """Ours, now: a later installation over this one is noticed."""
        return cls(
            os.path.dirname(os.fsencode(sys.executable)),
            os.stat(rootless.__file__),
            python_variables(b"%s=%s" % item for item in os.environb.items()),
            _namespaces("self"),
            _identity(os.stat("/proc/self/root/")),
            _status("self"),
        )


def python_variables(environment: Iterable[bytes]) -> frozenset[bytes]:
    """The variables that change what an interpreter does."""
    return frozenset(variable for variable in environment if variable.startswith(b"PYTHON"))


def become(fields: list[bytes], descriptors: list[int], peer_pid: int, ours: Installation) -> list[str]:
    """Take over all that makes the client's process; returns the words. Nothing has been done where it raises.

    Raises Refused, OSError, ValueError, LookupError."""
    protocol, executable, count, *rest = fields
    words, environment = rest[: int(count)], rest[int(count) :]
    if protocol != b"1" or len(words) != int(count) or len(descriptors) != 4:
        raise Refused
    status = _status(str(peer_pid))
    now = os.stat(rootless.__file__)
    if (
        os.path.dirname(executable) != ours.executable_directory
        or (now.st_ino, now.st_mtime_ns) != (ours.package.st_ino, ours.package.st_mtime_ns)
        or python_variables(environment) != ours.python_variables
        or _namespaces(str(peer_pid)) != ours.namespaces
        or _identity(os.stat(f"/proc/{peer_pid}/root/")) != ours.root
        or any(status.get(name) != ours.status.get(name) for name in COMPARED)
    ):
        raise Refused
    _take_limits(peer_pid)
    os.setpgid(0, 0)
    _take_signals(int(status[b"SigIgn"], 16))
    os.umask(int(status[b"Umask"], 8))
    os.fchdir(descriptors[3])
    _take_environment(environment)
    _take_streams(descriptors)
    decoded = [os.fsdecode(word) for word in words]
    sys.argv = ["rootless", *decoded]
    return decoded


def _take_limits(peer_pid: int) -> None:
    """Resource limits, priority and CPUs. Raises Refused where ours are tighter."""
    for limit in LIMITS:
        theirs = resource.prlimit(peer_pid, limit)
        if theirs != resource.getrlimit(limit):
            try:
                resource.setrlimit(limit, theirs)
            except (OSError, ValueError):
                raise Refused from None
    nice = os.getpriority(os.PRIO_PROCESS, peer_pid)
    if nice != os.getpriority(os.PRIO_PROCESS, 0):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    cpus = os.sched_getaffinity(peer_pid)
    if cpus != os.sched_getaffinity(0):
        os.sched_setaffinity(0, cpus)


def _take_signals(ignored: int) -> None:
    """An interpreter's dispositions, with what the client was told to ignore (nohup, background jobs)."""
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in signal.valid_signals():
        if ignored & (1 << (number - 1)) and number not in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_IGN)


def _take_environment(environment: list[bytes]) -> None:
    os.environb.clear()
    for variable in environment:
        name, _, value = variable.partition(b"=")
        os.environb[name] = value
    time.tzset()


def _take_streams(descriptors: list[int]) -> None:
    for fd, received in enumerate(descriptors[:3]):
        os.dup2(received, fd, inheritable=True)
    for received in descriptors:
        os.close(received)
    sys.stdin = os.fdopen(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _namespaces(process: str) -> tuple[str, ...]:
    return tuple(os.readlink(f"/proc/{process}/ns/{name}") for name in NAMESPACES)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _status(process: str) -> dict[bytes, bytes]:
    """/proc/PID/status: {b"Uid": b"1000\\t1000…", …}."""
    with open(f"/proc/{process}/status", "rb", buffering=0) as file:
        rows = file.read().split(b"\n")
    return {name: value.strip() for name, colon, value in (row.partition(b":") for row in rows) if colon}
