"""Containers' network devices and the processes of their networks, brought together: attached, detached, and what a
restarted network must know of its guests. Owned by `server`."""

from __future__ import annotations

from pathlib import Path

import slirp
from rootless.launcher import messages
from rootless.launcher.connections import log
from rootless.launcher.networks import Networks
from rootless.launcher.processes import LaunchRefused, Process
from rootless.runtime.spec import GuestNetwork

_NO_CONNECTION = ("02", "06", "07", "0A")  # SYN_SENT, TIME_WAIT, CLOSE, LISTEN: include/net/tcp_states.h


def attach(networks: Networks, network: GuestNetwork, tap: int) -> None:
    """Hand a container's device to its network's process. The descriptor is the callee's."""
    command: dict[str, object] = {
        "type": "Attach",
        "endpoint_id": network.endpoint_id,
        "mac": network.mac,
        "address4": network.address4,
        "address6": network.address6,
        "names": network.names,
        "private_names": network.private_names,
        "resolvers": network.resolvers,
    }
    try:
        networks.command(messages.NetworkCommand(network.network_id, command, key=network.endpoint_id), [tap])
    except LaunchRefused as refused:
        log(f"attach {network.endpoint_id}: {refused.message}")


def detach(networks: Networks, network_id: str, endpoint_id: str) -> None:
    """With the last descriptor of its TAP the device goes, which takes the kernel some 25 ms."""
    command: dict[str, object] = {"type": "Detach", "endpoint_id": endpoint_id}
    try:
        networks.command(messages.NetworkCommand(network_id, command, forget_key=endpoint_id), [])
    except LaunchRefused as refused:
        log(f"detach {endpoint_id}: {refused.message}")


def detach_all(networks: Networks, process: Process) -> None:
    """Every device of a container that has ended or did not start."""
    for network in process.networks if process.kind == "container" else ():
        detach(networks, network.network_id, network.endpoint_id)


def disconnect(networks: Networks, process: Process | None, network_id: str, endpoint_id: str) -> str:
    """Of a running container, or of one that has just gone (None). The name of the device that is still to be removed
    in it: one end of a veth pair, which does not go with its descriptor. "" for none."""
    fd = networks.device(network_id, endpoint_id)
    goes = fd is not None and not slirp.is_packet_socket(fd)
    left = ""
    if process is not None:
        if process.started and process.status is None and not goes:
            left = next((n.interface for n in process.networks if n.endpoint_id == endpoint_id), "")
        process.networks = tuple(network for network in process.networks if network.endpoint_id != endpoint_id)
    detach(networks, network_id, endpoint_id)
    return left


def connections_of(pid: int) -> list[str]:
    """ "<local> <remote>" of the TCP connections in the network namespace of a process, of /proc/<pid>/net/tcp{,6}."""
    found = []
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if len(words) > 3 and words[3] not in _NO_CONNECTION:
                found.append(f"{words[1]} {words[2]}")
    return found
