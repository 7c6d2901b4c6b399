"""The launcher's loop: one thread, one poll, requests in, replies and events out. No policy, no trio.

It must not wait for a slow engine (replies are queued) nor for a starting child (its report channel is polled).
Called by `launcher.__main__` once the user namespace is set up."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rootless.launcher import child, endpoints, messages, wire
from rootless.launcher.child import ChildContext
from rootless.launcher.connections import Connection, Connections, log
from rootless.launcher.fast_sockets import FastSockets
from rootless.launcher.idmap import IdMap
from rootless.launcher.images import Images
from rootless.launcher.loop import Loop
from rootless.launcher.networks import Networks
from rootless.launcher.overlay_probe import reason_against
from rootless.launcher.processes import Answer, LaunchRefused, Process, Processes, Refuse
from rootless.launcher.removals import Removals
from rootless.launcher.unions import Unions
from rootless.runtime.spec import ContainerSpec
from rootless.syscalls import numbers as n


class Launcher:
    """Serves one listener until told to leave.

    `allowed_roots`: directories below which RemoveTree may work."""

    def __init__(
        self,
        listener: socket.socket,
        context: ChildContext,
        idmap: IdMap,
        mounts_directory: Path,
        allowed_roots: tuple[Path, ...],
        version: str,
    ) -> None:
        self._context = context
        self._syscalls = context.syscalls
        self._idmap = idmap
        self._mounts_directory = mounts_directory
        self._version = version
        self._loop = Loop()
        self._peers = Connections(self._loop, listener, self._received)
        self._removals = Removals(self._peers, allowed_roots, self._run)
        self._unions_of_files: dict[int, str] = {}  # pid of a child at work on files -> its union
        self._count = 0
        self._networks = Networks(self._run, self._connections_of)
        self._fast_sockets = FastSockets(self._run)
        self._processes = Processes(
            context,
            idmap,
            self._exited,
            self._detach_all,
            lambda network, tap: endpoints.attach(self._networks, network, tap),
            self._watch_connects,
        )
        self._images = Images(mounts_directory, idmap.count, context.syscalls, self._run)
        self._unions = Unions(mounts_directory, idmap.count, context.syscalls, self._run)
        self._leaving = False

    # ------------------------------------------------------------------------------------------------ loop
    def serve(self) -> None:
        """Runs until Shutdown."""
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, self._signalled)
        self._loop.watch(wake_read, lambda: self._woken(wake_read))
        self._peers.begin()
        while not self._leaving:
            self._loop.turn(self._revive())
        self._stop()

    def _revive(self) -> float | None:
        """Start again what is due; milliseconds until something else is, None where nothing is."""
        now = time.monotonic()
        waits = []
        for owner in (self._images, self._unions, self._networks, self._fast_sockets):
            for revival, start in owner.revivals():
                if revival.due_at is not None and revival.due_at <= now:
                    try:
                        start()
                    except OSError as error:  # no process to be had: later, perhaps
                        log(f"cannot start a server again: {error.strerror}")
                        revival.died(now)
                if revival.due_at is not None:
                    waits.append(max(0.0, revival.due_at - now))
        return min(waits) * 1000 if waits else None

    def _signalled(self, number: int, _frame: object) -> None:
        if number == signal.SIGTERM:
            self._leaving = True

    def _woken(self, fd: int) -> None:
        try:
            os.read(fd, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._reaped(pid, status)

    def _reaped(self, pid: int, status: int) -> None:
        if self._processes.reaped(pid, status):
            return
        if (union := self._unions_of_files.pop(pid, None)) is not None:
            self._unions.unmount(union)
            return
        if self._removals.reaped(pid, status):
            return
        if (ended := self._fast_sockets.reaped(pid)) is not None:
            log(f"fast sockets of {ended[0]} died: status {os.waitstatus_to_exitcode(status)}")
            return
        for kind, owner in (("image", self._images), ("union", self._unions), ("network", self._networks)):
            if (ended := owner.reaped(pid)) is not None:
                key, revival = ended
                reason = f"status {os.waitstatus_to_exitcode(status)}" + (", given up" if revival.given_up else "")
                log(f"{kind} {key} died: {reason}")
                self._peers.event(messages.Died(kind, key, reason, revival.given_up))
                return

    def _run(self, name: str, keep: Sequence[int], function: Callable[[], None]) -> int:
        """Fork a server that has the standard streams and `keep` open and nothing else: a FUSE descriptor of another
        mount would keep that mount's callers waiting when its own server has been given up."""
        launcher = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            self._context.syscalls.prctl(n.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != launcher:  # it ended before we asked to end with it
                os._exit(1)
            Path("/proc/self/comm").write_text(name)
            first = 3
            for fd in sorted(keep):
                os.closerange(first, fd)
                first = fd + 1
            os.closerange(first, 1 << 30)
            function()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    def _stop(self) -> None:
        for process in self._processes.running():
            if process.pidfd >= 0:
                try:
                    signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        self._fast_sockets.stop_all()
        self._networks.stop_all()
        self._unions.stop()
        self._images.stop()

    # ------------------------------------------------------------------------------------------------ requests
    def _received(
        self, connection: Connection, request_id: int, value: Mapping[str, Any], descriptors: list[int]
    ) -> None:
        try:
            self._handle(connection, request_id, wire.request(value), descriptors)
        except LaunchRefused as refused:
            self._peers.refuse(connection, request_id, refused.step, refused.errno, refused.message, refused.exit_code)
        except wire.BadMessage as error:
            self._peers.refuse(connection, request_id, "message", 22, str(error))
        except OSError as error:
            self._peers.refuse(connection, request_id, "launcher", error.errno or 5, str(error))

    def _handle(
        self, connection: Connection, request_id: int, request: messages.Request, descriptors: list[int]
    ) -> None:
        if isinstance(request, messages.NetworkCommand):
            self._peers.reply(connection, request_id, self._networks.command(request, descriptors))
            if request.command.get("type") == "Forbid":
                self._fast_sockets.forbid(request.network_id, request.command.get("subnets"))
            return
        if isinstance(request, messages.WorkOnFiles):
            self._work_on_files(request, descriptors)
            self._peers.reply(connection, request_id, {})
            return
        wire.close_all(descriptors)  # no other request brings any
        match request:
            case messages.StartContainer() | messages.StartExec():
                self._start(connection, request_id, request)
            case messages.ConnectNetwork() | messages.RouteNetwork():
                self._inside(connection, request_id, request)
            case messages.DisconnectNetwork():
                process = self._processes.by_id.get(request.container_id)
                self._fast_sockets.left(request.container_id, request.network_id)
                left = endpoints.disconnect(self._networks, process, request.network_id, request.endpoint_id)
                if left:
                    self._inside(connection, request_id, child.RemoveDevice(request.container_id, left))
                else:
                    self._peers.reply(connection, request_id, {})
            case messages.RemoveTree():
                self._removals.start(connection, request_id, request.path)
            case messages.Stdio():
                stdio = self._processes.find(request.process_id).stdio
                self._peers.reply(connection, request_id, {"names": list(stdio)}, list(stdio.values()))
            case messages.Shutdown():
                if self._processes.running() and not request.force:
                    raise LaunchRefused("shutdown", 16, "containers are running")
                self._peers.reply(connection, request_id, {})
                self._leaving = True
            case messages.Hello():
                self._peers.engine = connection
                self._peers.reply(connection, request_id, self._hello())
            case _:
                self._peers.reply(connection, request_id, self._at_once(request))

    def _at_once(self, request: messages.Request) -> dict[str, object]:
        match request:
            case messages.MountImage():
                return {"path": self._images.mount(request)}
            case messages.ProbeOverlay():
                return {"reason": reason_against(request.directory, self._mounts_directory / "root", self._syscalls)}
            case messages.UnmountImage():
                self._images.unmount(request.key)
            case messages.CloseStdin():
                self._processes.close_stdin(request.process_id)
            case messages.Signal():
                self._processes.signal(request)
            case messages.Forget():
                self._processes.forget(request.process_id)
            case messages.StartNetwork():
                return {"pid": self._networks.start(request)}
            case messages.StopNetwork():
                self._networks.stop(request.network_id)
        return {}

    def _hello(self) -> dict[str, object]:
        known = self._processes.by_id.values()
        return {
            "pid": os.getpid(),
            "version": self._version,
            "protocol": messages.PROTOCOL_VERSION,
            "uid_map": self._idmap.uids,
            "gid_map": self._idmap.gids,
            "single_id": self._idmap.single_id,
            "single_id_reason": self._idmap.reason,
            "mounts_dir": str(self._mounts_directory),
            "containers": {p.process_id: p.pid for p in known if p.kind == "container" and p.status is None},
            "execs": {p.process_id: p.pid for p in known if p.kind == "exec" and p.status is None},
            "exits": [dataclasses.asdict(_exited(p)) for p in known if p.status is not None and p.started],
            "images": {key: str(image.path) for key, image in self._images.by_key.items()},
            "networks": list(self._networks.by_id),
            "endpoints": {
                p.process_id: [dataclasses.asdict(network) for network in p.networks]
                for p in known
                if p.status is None and p.networks
            },
        }

    def _start(
        self, connection: Connection, request_id: int, request: messages.StartContainer | messages.StartExec
    ) -> None:
        def answer(result: dict[str, object], fds: list[int]) -> None:
            self._peers.reply(connection, request_id, result, fds)

        def refuse(step: str, number: int, message: str, exit_code: int) -> None:
            if isinstance(request, messages.StartContainer):
                self._unions.unmount(request.spec.container_id)
            self._peers.refuse(connection, request_id, step, number, message, exit_code)

        if isinstance(request, messages.StartContainer):
            channel = self._start_container(request.spec, answer, refuse)
        else:
            channel = self._processes.start_exec(request, answer, refuse)
        fd = channel.fileno()

        def readable() -> None:
            if channel.fileno() >= 0 and not self._processes.readable(channel):
                self._loop.unwatch(fd)

        self._loop.watch(fd, readable)

    def _start_container(self, spec: ContainerSpec, answer: Answer, refuse: Refuse) -> socket.socket:
        if spec.root.union is None:
            return self._processes.start_container(spec, answer, refuse)
        lower = self._unions.mount(spec.container_id, spec.root)
        spec = dataclasses.replace(spec, root=dataclasses.replace(spec.root, lower=lower))
        try:
            return self._processes.start_container(spec, answer, refuse)
        except BaseException:
            self._unions.unmount(spec.container_id)
            raise

    def _work_on_files(self, request: messages.WorkOnFiles, descriptors: list[int]) -> None:
        """The child reports by itself: nothing here waits for it. In driver `fuse` a container that does not run has no
        root: one is served for as long as the child is at work."""
        union = ""
        try:
            if len(descriptors) != 2:
                raise LaunchRefused("files", 22, "two descriptors are needed")
            spec = request.spec
            pidfd = self._processes.running_pidfd(spec.container_id)
            lower = self._unions.path_of(spec.container_id) if pidfd >= 0 else ""
            if spec.root.union is not None and pidfd < 0:
                self._count += 1
                union = f"files-{self._count}"
                lower = self._unions.mount(union, spec.root)
            if lower:
                root = dataclasses.replace(spec.root, lower=lower)
                request = dataclasses.replace(request, spec=dataclasses.replace(spec, root=root))

            def work() -> None:
                from rootless.launcher import container_files  # in the child: the launcher's start does not pay for it

                container_files.work(request, pidfd, descriptors[0], descriptors[1], self._context)

            pid = self._run("rl-files", [*descriptors, *([pidfd] if pidfd >= 0 else [])], work)
            if union:
                self._unions_of_files[pid] = union
        except BaseException:
            self._unions.unmount(union)
            raise
        finally:
            wire.close_all(descriptors)

    # ------------------------------------------------------------------------------------------------ live networks
    def _inside(self, connection: Connection, request_id: int, request: child.InNetwork) -> None:
        """Work in a running container's network namespace: a child's, as a process cannot leave one again."""
        process = self._processes.find(request.container_id)
        if process.status is not None or not process.started:
            raise LaunchRefused("network", 3, f"container {request.container_id} is not running")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._run(
            "rl-connect",
            [process.entered_pidfd, theirs.fileno()],
            lambda: child.in_network_of(process.entered_pidfd, request, theirs, self._context),
        )
        theirs.close()
        fd = ours.fileno()

        def readable() -> None:
            received = wire.receive(ours)
            self._loop.unwatch(fd)
            ours.close()
            value, descriptors = received or ({"message": "the helper was killed", "errno": 0}, [])
            if "message" in value or process.status is not None:
                wire.close_all(descriptors)
                message = str(value.get("message", "the container has ended"))
                self._peers.refuse(connection, request_id, "network", int(value.get("errno") or 3), message)
                return
            if isinstance(request, messages.ConnectNetwork):
                process.networks = (*process.networks, request.network)
                endpoints.attach(self._networks, request.network, descriptors[0])
            self._peers.reply(connection, request_id, {})

        self._loop.watch(fd, readable)

    def _connections_of(self, endpoint_id: str) -> list[str]:
        for process in self._processes.running():
            if any(network.endpoint_id == endpoint_id for network in process.networks):
                return endpoints.connections_of(process.pid)
        return []

    # ------------------------------------------------------------------------------------------------ happenings
    def _exited(self, process: Process) -> None:
        if process.kind == "container":
            self._unions.unmount(process.process_id)
        self._peers.event(_exited(process))
        self._detach_all(process)

    def _detach_all(self, process: Process) -> None:
        if process.kind == "container":
            self._fast_sockets.ended(process.process_id)
        endpoints.detach_all(self._networks, process)

    def _watch_connects(self, container: Process, listener: int) -> None:
        """A process of a container whose connect(2) is reported; the listener becomes ours."""
        network = container.fast_network
        known = self._networks.by_id.get(network.network_id) if network else None
        if known is None:
            os.close(listener)
            return
        try:
            self._fast_sockets.watch(container.process_id, known.network_id, known.config, listener)
        except OSError as error:  # it is tried again
            log(f"fast sockets of {container.process_id}: {error.strerror}")


def _exited(process: Process) -> messages.Exited:
    return messages.Exited(process.process_id, process.kind, process.status or 0, process.finished_at)
