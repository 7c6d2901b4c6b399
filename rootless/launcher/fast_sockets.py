"""Supervisors of fast sockets, one per container that has them: started with its first listener, kept alive, ended.

The listeners are kept here, so that a call waits while a supervisor is away; without one it would fail with ENOSYS.
That is why a supervisor is never given up. What it does is `slirp.fast.supervisor`'s. Owned by `server`."""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import slirp
from rootless.launcher import wire
from rootless.launcher.images import Run
from rootless.launcher.revival import GIVEN_UP, Revival


@dataclass
class Supervisor:
    network_id: str
    config: dict[str, object]
    memory: mmap.mmap  # what a supervisor has not answered yet, for the next one
    pid: int = 0
    control: socket.socket | None = None
    listeners: dict[int, int] = field(default_factory=dict)  # number -> descriptor
    left: bool = False
    count: int = 0
    revival: Revival = field(default_factory=Revival)


class FastSockets:
    """All supervisors, by container. `run` as for `networks`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.by_container: dict[str, Supervisor] = {}

    def watch(self, container_id: str, network_id: str, config: dict[str, object], listener: int) -> None:
        """A process of a container has begun; the listener becomes ours. Raises OSError: there is no supervisor yet."""
        supervisor = self.by_container.get(container_id)
        if supervisor is None:
            supervisor = Supervisor(network_id, config, mmap.mmap(-1, slirp.FAST_SOCKETS_BYTES))
            self.by_container[container_id] = supervisor
            supervisor.listeners[0] = listener
            try:
                self._start(supervisor)
            except OSError:
                supervisor.revival.died(time.monotonic())
                raise
            return
        self._prune(supervisor)
        supervisor.count += 1
        supervisor.listeners[supervisor.count] = listener
        self._tell_listener(supervisor, supervisor.count, listener)

    def forbid(self, network_id: str, subnets: object) -> None:
        """What nothing leads to any more has changed."""
        for supervisor in self.by_container.values():
            if supervisor.network_id == network_id:
                supervisor.config = {**supervisor.config, "forbidden": subnets}
                self._tell(supervisor, {"type": "Forbid", "subnets": subnets})

    def left(self, container_id: str, network_id: str) -> None:
        """A container is not on this network any more."""
        supervisor = self.by_container.get(container_id)
        if supervisor is not None and supervisor.network_id == network_id:
            supervisor.left = True
            self._tell(supervisor, {"type": "Left"})

    def ended(self, container_id: str) -> None:
        """A container has."""
        supervisor = self.by_container.pop(container_id, None)
        if supervisor is not None:
            if supervisor.control is not None:
                supervisor.control.close()  # end of file is its signal to leave
            wire.close_all(list(supervisor.listeners.values()))
            supervisor.memory.close()

    def reaped(self, pid: int) -> tuple[str, Revival] | None:
        """A child ended: (container id, what becomes of it) if it was a supervisor of ours."""
        for container_id, supervisor in self.by_container.items():
            if supervisor.pid == pid:
                supervisor.pid = 0
                if supervisor.control is not None:
                    supervisor.control.close()
                    supervisor.control = None
                supervisor.revival.died(time.monotonic())
                if supervisor.revival.given_up:
                    supervisor.revival.deaths = GIVEN_UP - 2
                    supervisor.revival.died(time.monotonic())
                return container_id, supervisor.revival
        return None

    def revivals(self) -> Iterator[tuple[Revival, Callable[[], None]]]:
        """Each supervisor's, and what starts it again."""
        for supervisor in list(self.by_container.values()):
            yield supervisor.revival, partial(self._start, supervisor)

    def stop_all(self) -> None:
        for container_id in list(self.by_container):
            self.ended(container_id)

    def _start(self, supervisor: Supervisor) -> None:
        """Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        config = slirp.NetworkConfig.from_dict(supervisor.config)

        def serve() -> None:
            slirp.run_fast_sockets(config, theirs, supervisor.memory)

        try:
            supervisor.pid = self._run("rl-fast", [theirs.fileno()], serve)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        supervisor.revival.started(time.monotonic())
        ours.setblocking(False)
        supervisor.control = ours
        if supervisor.left:
            self._tell(supervisor, {"type": "Left"})
        self._prune(supervisor)
        for number, listener in supervisor.listeners.items():
            self._tell_listener(supervisor, number, listener)

    def _tell_listener(self, supervisor: Supervisor, number: int, listener: int) -> None:
        self._tell(supervisor, {"type": "Watch", "watch": number}, [listener])

    def _tell(self, supervisor: Supervisor, command: dict[str, object], descriptors: list[int] | None = None) -> None:
        """A supervisor that has died hears it when it is started again; one that does not read is ended for it."""
        if supervisor.control is None:
            return
        try:
            socket.send_fds(supervisor.control, [json.dumps(command).encode()], descriptors or [])
        except BlockingIOError:
            os.kill(supervisor.pid, signal.SIGKILL)
        except OSError:
            return  # it has just died

    def _prune(self, supervisor: Supervisor) -> None:
        """Let go of the listeners whose processes have all ended."""
        waiting = select.poll()
        for listener in supervisor.listeners.values():
            waiting.register(listener, 0)
        over = {fd for fd, events in waiting.poll(0) if events & select.POLLHUP}
        for number, listener in list(supervisor.listeners.items()):
            if listener in over:
                wire.close_all([supervisor.listeners.pop(number)])
