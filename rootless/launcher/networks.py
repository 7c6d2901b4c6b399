"""Network processes: one per network, with the commands and descriptors they were given kept for a restart.

The launcher does not read the commands; it repeats what was kept under a key. Owned by `server`."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import slirp
from rootless.launcher import messages, wire
from rootless.launcher.images import Run
from rootless.launcher.processes import LaunchRefused
from rootless.launcher.revival import Revival

ANSWER_SECONDS = 5.0
FLOWS_AT_ONCE = 200  # a device's queue takes no more answers than it has room for


@dataclass
class Network:
    network_id: str
    config: dict[str, object]
    pid: int = 0
    control: socket.socket | None = None
    kept: dict[str, tuple[dict[str, object], list[int]]] = field(default_factory=dict)
    revival: Revival = field(default_factory=Revival)


class Networks:
    """All networks. `run` as for `images`; `connections(endpoint id)` gives the TCP connections that a guest believes
    in, as slirp's Reset wants them."""

    def __init__(self, run: Run, connections: Callable[[str], list[str]]) -> None:
        self._run, self._connections = run, connections
        self.by_id: dict[str, Network] = {}

    def start(self, request: messages.StartNetwork) -> int:
        """The process' pid. Raises OSError, LaunchRefused."""
        network = self.by_id.get(request.network_id)
        if network is None:
            network = Network(request.network_id, request.config)
            self._start(network)
            self.by_id[request.network_id] = network
        return network.pid

    def command(self, request: messages.NetworkCommand, descriptors: list[int]) -> dict[str, Any]:
        """Pass a command on and keep it. The descriptors become ours. Raises LaunchRefused."""
        network = self.by_id.get(request.network_id)
        if network is None:
            wire.close_all(descriptors)
            raise LaunchRefused("network", 2, f"network {request.network_id} does not run")
        if request.forget_key:
            self._forget(network, request.forget_key)
        if request.command.get("type") == "Forbid":
            network.config = {**network.config, "forbidden": request.command.get("subnets")}
        try:
            if network.control is None and request.key:  # it is told when it runs again
                answer: dict[str, Any] = {}
            else:
                answer = self._ask(network, request.command, descriptors)
        except LaunchRefused:
            wire.close_all(descriptors)
            raise
        if request.key:
            replaced = network.kept.pop(request.key, None)
            network.kept[request.key] = request.command, descriptors
            wire.close_all(replaced[1] if replaced else [])
        else:
            wire.close_all(descriptors)
        return answer

    def device(self, network_id: str, endpoint_id: str) -> int | None:
        """The descriptor of an endpoint's device, still ours; None where it is not kept."""
        network = self.by_id.get(network_id)
        _, descriptors = network.kept.get(endpoint_id, ({}, [])) if network else ({}, [])
        return descriptors[0] if descriptors else None

    def stop(self, network_id: str) -> None:
        network = self.by_id.pop(network_id, None)
        if network is None:
            return
        if network.control is not None:
            network.control.close()  # end of file is its signal to leave
        for _, descriptors in network.kept.values():
            wire.close_all(descriptors)

    def reaped(self, pid: int) -> tuple[str, Revival] | None:
        """A child ended: (network id, what becomes of it) if it was a network of ours."""
        network = next((network for network in self.by_id.values() if network.pid == pid), None)
        if network is None:
            return None
        network.pid = 0
        if network.control is not None:
            network.control.close()
            network.control = None
        network.revival.died(time.monotonic())
        if network.revival.given_up:
            self.stop(network.network_id)
        return network.network_id, network.revival

    def revivals(self) -> Iterator[tuple[Revival, Callable[[], None]]]:
        """Each network's, and what starts it again."""
        for network in list(self.by_id.values()):
            yield network.revival, partial(self._start_again, network)

    def _start_again(self, network: Network) -> None:
        self._start(network)
        for command, descriptors in list(network.kept.values()):
            try:
                self._ask(network, command, descriptors)
            except LaunchRefused:
                continue  # one endpoint it no longer accepts must not take the others with it
        for endpoint_id in [key for key, (command, _) in network.kept.items() if command.get("type") == "Attach"]:
            self._reset_connections(network, endpoint_id)

    def _reset_connections(self, network: Network, endpoint_id: str) -> None:
        """What a guest had open through the dead process is to end."""
        flows = self._connections(endpoint_id)
        for first in range(0, len(flows), FLOWS_AT_ONCE):
            some = flows[first : first + FLOWS_AT_ONCE]
            try:
                self._ask(network, {"type": "Reset", "endpoint_id": endpoint_id, "flows": some}, [])
            except LaunchRefused:
                return

    def _forget(self, network: Network, key: str) -> None:
        for known in [known for known in network.kept if known == key or known.startswith(f"{key}/")]:
            wire.close_all(network.kept.pop(known)[1])

    def _start(self, network: Network) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        config = slirp.NetworkConfig.from_dict(network.config)

        def serve() -> None:
            slirp.run_network(config, theirs)

        try:
            network.pid = self._run("rl-network", [theirs.fileno()], serve)
        finally:
            theirs.close()
        network.revival.started(time.monotonic())
        ours.settimeout(ANSWER_SECONDS)
        network.control = ours

    def _ask(self, network: Network, command: dict[str, object], descriptors: list[int]) -> dict[str, Any]:
        if network.control is None:
            raise LaunchRefused("network", 111, f"network {network.network_id} has died and is being started again")
        try:
            wire.send(network.control, json.dumps(command).encode(), descriptors)
            data = network.control.recv(1 << 16)
            answer = json.loads(data) if data else {"error": "it has died"}
        except (OSError, ValueError) as error:
            raise LaunchRefused("network", getattr(error, "errno", 0) or 5, f"network process: {error}") from error
        if not isinstance(answer, dict) or "error" in answer:
            number = errno.ESRCH if isinstance(answer, dict) and answer.get("gone") else errno.EINVAL
            raise LaunchRefused("network", number, f"network process: {answer.get('error', 'bad answer')}")
        return answer

    def stop_all(self) -> None:
        for network_id in list(self.by_id):
            pid = self.by_id[network_id].pid
            self.stop(network_id)
            if pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
