"""Containers and execs: started, known, ended, forgotten. The fd store of their stdio is here as well.

A process is `starting` until its report channel ends; then it is started, or it failed and is as if it had never been.
Owned by `server`, which gives it readable channels and dead children."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rootless.launcher import child, messages, wire
from rootless.launcher.child import ChildContext
from rootless.launcher.idmap import IdMap
from rootless.runtime.spec import ContainerSpec, GuestNetwork, ProcessSpec
from rootless.syscalls import numbers as n
from rootless.syscalls.kernel import clone

Answer = Callable[[dict[str, object], list[int]], None]
Refuse = Callable[[str, int, str, int], None]
JOIN = "container:"
_STREAMS = ("stdin", "stdout", "stderr")
_Stdio = tuple[int, int, int]


class LaunchRefused(Exception):
    """A request that cannot be met; becomes a Failure."""

    def __init__(self, step: str, number: int, message: str, exit_code: int = 125) -> None:
        super().__init__(message)
        self.step = step
        self.errno = number
        self.message = message
        self.exit_code = exit_code


@dataclass
class Process:
    """One container's first process, or one exec."""

    process_id: str
    kind: str
    container_id: str
    pid: int
    pidfd: int
    stdio: dict[str, int] = field(default_factory=dict)  # name -> the descriptor the engine uses as well
    status: int | None = None
    finished_at: float = 0.0
    started: bool = False
    networks: tuple[GuestNetwork, ...] = ()
    namespaces: int = 0  # those of the container that are its own
    inner_pidfd: int = -1  # of the command, where the first process is docker's --init

    @property
    def entered_pidfd(self) -> int:
        """Of whose namespaces others enter: an init of ours, whose memory is the launcher's, may not be looked at."""
        return self.inner_pidfd if self.inner_pidfd >= 0 else self.pidfd

    @property
    def fast_network(self) -> GuestNetwork | None:
        """The one that its connections may leave by sockets of the host."""
        return next((network for network in self.networks if network.fast), None)


@dataclass
class _Start:
    """A process whose report channel is still open."""

    process: Process
    channel: socket.socket
    answer: Answer
    refuse: Refuse
    warnings: list[str] = field(default_factory=list)
    failure: dict[str, Any] | None = None
    helper_pid: int = 0  # an exec's first child, which only enters the namespaces


class Processes:
    """All containers and execs of this launcher.

    `on_exit(process)` is called once for every started process that ended, `on_failure(process)` for one that never
    came to its command; `on_tap(network, fd)` for every network device a container made (the descriptor is the
    callee's), `on_connects(container, fd)` for every listener to the connect(2) of a process of a container."""

    def __init__(
        self,
        context: ChildContext,
        idmap: IdMap,
        on_exit: Callable[[Process], None],
        on_failure: Callable[[Process], None],
        on_tap: Callable[[GuestNetwork, int], None],
        on_connects: Callable[[Process, int], None],
    ) -> None:
        self._context = context
        self._idmap = idmap
        self._on_exit, self._on_failure = on_exit, on_failure
        self._on_tap, self._on_connects = on_tap, on_connects
        self.by_id: dict[str, Process] = {}
        self._by_pid: dict[int, Process] = {}
        self._starts: dict[int, _Start] = {}
        self._early: dict[int, tuple[int, float]] = {}  # ends of children that were nobody's while a start was open

    # ------------------------------------------------------------------------------------------------ starting
    def start_container(self, spec: ContainerSpec, answer: Answer, refuse: Refuse) -> socket.socket:
        """Begin; returns the report channel to watch (see `readable`). Raises LaunchRefused, OSError."""
        self._must_be_free(spec.container_id)
        if spec.network.startswith(JOIN):
            return self._start_joining(spec, answer, refuse)
        namespaces = _namespaces(spec)

        def mapped(pid: int, channel: socket.socket) -> None:
            self._map(pid)
            channel.send(b"go")

        def become(channel: socket.socket, stdio: _Stdio) -> None:
            child.container(channel, spec, stdio, self._context)

        pid, ours, outer = self._child(spec.process, lambda: clone(namespaces), become, mapped)
        process = Process(spec.container_id, "container", spec.container_id, pid, os.pidfd_open(pid), outer)
        process.networks = spec.guest_networks if spec.network == "private" else ()
        process.namespaces = namespaces
        self._register(process)
        return self._watch(_Start(process, ours, answer, refuse))

    def _start_joining(self, spec: ContainerSpec, answer: Answer, refuse: Refuse) -> socket.socket:
        """A container that shares another's network: its first process is made as an exec's is."""
        other = self.by_id.get(spec.network.removeprefix(JOIN))
        if other is None or not other.started or other.status is not None:
            raise LaunchRefused("network", 3, f"cannot join network of a non running container: {spec.network}")
        namespaces = _namespaces(spec)

        def become(channel: socket.socket, stdio: _Stdio) -> None:
            child.joining(channel, other.entered_pidfd, namespaces, spec, stdio, self._context)

        pid, ours, outer = self._child(spec.process, os.fork, become, lambda _, channel: channel.send(b"go"))
        process = Process(spec.container_id, "container", spec.container_id, 0, -1, outer)
        process.namespaces = namespaces | n.CLONE_NEWUSER | n.CLONE_NEWNET  # for those who enter it
        self.by_id[process.process_id] = process
        return self._watch(_Start(process, ours, answer, refuse, helper_pid=pid))

    def start_exec(self, request: messages.StartExec, answer: Answer, refuse: Refuse) -> socket.socket:
        """As start_container, for a further process of a running container."""
        self._must_be_free(request.exec_id)
        container = self.by_id.get(request.container_id)
        if container is None or not container.started or container.status is not None:
            raise LaunchRefused("exec", 3, f"container {request.container_id} is not running")

        def become(channel: socket.socket, stdio: _Stdio) -> None:
            fast = container.fast_network is not None
            where = container.entered_pidfd, container.namespaces
            child.execution(channel, *where, request.process, stdio, self._context, fast=fast)

        pid, ours, outer = self._child(request.process, os.fork, become, lambda _, __: None)
        process = Process(request.exec_id, "exec", request.container_id, 0, -1, outer)
        self.by_id[process.process_id] = process
        return self._watch(_Start(process, ours, answer, refuse, helper_pid=pid))

    def _child(
        self,
        spec: ProcessSpec,
        fork: Callable[[], int],
        become: Callable[[socket.socket, _Stdio], None],
        let_go: Callable[[int, socket.socket], object],
    ) -> tuple[int, socket.socket, dict[str, int]]:
        """A new process that becomes something (and does not return): its pid, the channel it reports by, our ends of
        its streams. `let_go` is given the first two, and does what it waits for.

        Raises OSError; leaves nothing then."""
        ours, theirs = _channel()
        inner, outer = _open_stdio(spec)
        try:
            pid = fork()
            if pid == 0:
                ours.close()
                become(theirs, inner)
            let_go(pid, ours)
        except BaseException:
            wire.close_all([*outer.values()])
            ours.close()
            raise
        finally:
            theirs.close()
            _close_inner(inner)
        return pid, ours, outer

    def readable(self, channel: socket.socket) -> bool:
        """Take one report of a starting child. False: this channel is done and closed."""
        start = self._starts[channel.fileno()]
        try:
            received = wire.receive(channel)
        except BlockingIOError:
            return True
        except (OSError, wire.BadMessage):
            received = None
        if received is not None:
            self._report(start, *received)
            return True
        del self._starts[channel.fileno()]
        if not self._starts:
            self._early.clear()
        channel.close()
        self._finish(start)
        return False

    def _report(self, start: _Start, report: Mapping[str, Any], descriptors: list[int]) -> None:
        process = start.process
        match report["type"]:
            case "tap" if len(descriptors) == 1:
                network = next((x for x in process.networks if x.endpoint_id == report.get("endpoint")), None)
                if network is not None:
                    self._on_tap(network, descriptors.pop())
            case "connects" if len(descriptors) == 1 and process.container_id in self.by_id:
                self._on_connects(self.by_id[process.container_id], descriptors.pop())
            case "command" if len(descriptors) == 1:
                process.inner_pidfd = descriptors.pop()
            case "terminal" if len(descriptors) == 1:
                process.stdio["terminal"] = descriptors.pop()
            case "warning":
                start.warnings.append(str(report.get("text")))
            case "failed":
                start.failure = dict(report)
            case "pid":
                self._second_child(process, int(report["pid"]))
        wire.close_all(descriptors)

    def _second_child(self, process: Process, pid: int) -> None:
        """The pid of a process whose first child only entered the namespaces. It may have ended before this is read."""
        process.pid = pid
        if (ended := self._early.pop(pid, None)) is not None:
            process.status, process.finished_at = _shell_status(ended[0]), ended[1]
            return
        process.pidfd = os.pidfd_open(pid)
        self._by_pid[pid] = process

    def _finish(self, start: _Start) -> None:
        process = start.process
        if start.failure is None and process.pid:
            process.started = True
            start.answer(
                {"pid": process.pid, "warnings": start.warnings, "names": list(process.stdio)},
                list(process.stdio.values()),
            )
            if process.status is not None:
                self._on_exit(process)
            return
        self._drop(process)
        self._on_failure(process)
        failure = start.failure or {"step": "start", "errno": 0, "message": "the new process was killed"}
        start.refuse(
            str(failure.get("step")),
            int(failure.get("errno") or 0),
            str(failure.get("message")),
            int(failure.get("exit_code", 125)),
        )

    # ------------------------------------------------------------------------------------------------ ends
    def reaped(self, pid: int, wait_status: int) -> bool:
        """A child ended. False: not one of ours."""
        process = self._by_pid.pop(pid, None)
        if process is None:
            if any(not start.process.pid for start in self._starts.values()):
                self._early[pid] = wait_status, time.time()
            return False
        process.status = _shell_status(wait_status)
        process.finished_at = time.time()
        if process.started:
            self._on_exit(process)
        return True

    def forget(self, process_id: str) -> None:
        """Raises LaunchRefused while it runs."""
        process = self.by_id.get(process_id)
        if process is None:
            return
        if process.status is None:
            raise LaunchRefused("forget", 16, f"{process_id} is still running")
        self._drop(process)

    def _drop(self, process: Process) -> None:
        self.by_id.pop(process.process_id, None)
        wire.close_all([*process.stdio.values()])
        process.stdio.clear()
        wire.close_all([fd for fd in (process.pidfd, process.inner_pidfd) if fd >= 0])
        process.pidfd = process.inner_pidfd = -1

    # ------------------------------------------------------------------------------------------------ running ones
    def find(self, process_id: str) -> Process:
        """Raises LaunchRefused (ESRCH)."""
        process = self.by_id.get(process_id)
        if process is None:
            raise LaunchRefused("find", 3, f"no such process {process_id}")
        return process

    def running_pidfd(self, process_id: str) -> int:
        """Of a container or exec that runs, to enter it; -1 otherwise."""
        process = self.by_id.get(process_id)
        return process.entered_pidfd if process is not None and process.started and process.status is None else -1

    def signal(self, request: messages.Signal) -> None:
        """Raises LaunchRefused (ESRCH), OSError."""
        process = self.find(request.process_id)
        if process.status is not None or process.pidfd < 0:
            raise LaunchRefused("signal", 3, f"{request.process_id} is not running")
        if request.all_processes and request.signal == signal.SIGKILL and process.kind == "container":
            request = messages.Signal(request.process_id, request.signal)  # the kernel kills the rest with process 1
        signal.pidfd_send_signal(process.pidfd, request.signal)

    def close_stdin(self, process_id: str) -> None:
        fd = self.find(process_id).stdio.pop("stdin", -1)
        if fd >= 0:
            os.close(fd)

    def running(self) -> list[Process]:
        return [process for process in self.by_id.values() if process.status is None]

    # ------------------------------------------------------------------------------------------------ pieces
    def _must_be_free(self, process_id: str) -> None:
        if process_id in self.by_id:
            raise LaunchRefused("start", 17, f"{process_id} is known already")

    def _register(self, process: Process) -> None:
        self.by_id[process.process_id] = process
        self._by_pid[process.pid] = process

    def _watch(self, start: _Start) -> socket.socket:
        self._starts[start.channel.fileno()] = start
        return start.channel

    def _map(self, pid: int) -> None:
        directory = Path(f"/proc/{pid}")
        try:
            if self._idmap.single_id:
                (directory / "setgroups").write_text("deny")
            (directory / "uid_map").write_text(self._idmap.nested_uids())
            (directory / "gid_map").write_text(self._idmap.nested_gids())
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise


def _namespaces(spec: ContainerSpec) -> int:
    flags = n.CLONE_NEWNS | n.CLONE_NEWCGROUP
    flags |= 0 if spec.network.startswith(JOIN) else n.CLONE_NEWUSER
    flags |= n.CLONE_NEWPID if spec.pid == "private" else 0
    flags |= n.CLONE_NEWIPC if spec.ipc == "private" else 0
    flags |= n.CLONE_NEWUTS if spec.uts == "private" else 0
    flags |= n.CLONE_NEWNET if spec.network == "private" else 0
    return flags


def _shell_status(wait_status: int) -> int:
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def _channel() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    if theirs.fileno() <= 2:  # 0, 1 and 2 become the command's
        raise LaunchRefused("start", 9, "the launcher's standard descriptors are closed")
    return ours, theirs


def _open_stdio(process: ProcessSpec) -> tuple[_Stdio, dict[str, int]]:
    """(the command's ends, the engine's ends by name)."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    if process.terminal:
        return (null, null, null), {}
    inner = [null, null, null]
    outer: dict[str, int] = {}
    for number, name in enumerate(_STREAMS):
        if name == "stdin" and not process.open_stdin:
            continue
        reading, writing = os.pipe2(os.O_CLOEXEC)
        inner[number], outer[name] = (reading, writing) if name == "stdin" else (writing, reading)
    if process.open_stdin:
        os.close(null)
    return (inner[0], inner[1], inner[2]), outer


def _close_inner(inner: _Stdio) -> None:
    wire.close_all(sorted(set(inner)))
