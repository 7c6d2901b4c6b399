"""A network in user space for people without root: switch, router, NAT, TCP, UDP, ICMP, DNS and published ports on TAP
devices, in one process per network. Stands alone; `rootless` uses the names below and no others."""

from __future__ import annotations

import mmap
import socket

from slirp.config import NetworkConfig
from slirp.devices.guest import configure_guest, loopback_up, set_default_routes
from slirp.devices.tap import open_device, open_tap
from slirp.devices.veth import is_packet_socket, remove_veth
from slirp.fast.calls import FAST_SOCKETS_BYTES, notify_connects
from slirp.run import run_network


def run_fast_sockets(config: NetworkConfig, control: socket.socket, memory: mmap.mmap) -> None:
    """Answer a guest's connect(2), see `slirp.fast.supervisor`. Imported here: most networks have none."""
    from slirp.fast.supervisor import run_fast_sockets

    run_fast_sockets(config, control, memory)


__all__ = [
    "FAST_SOCKETS_BYTES",
    "NetworkConfig",
    "configure_guest",
    "is_packet_socket",
    "loopback_up",
    "notify_connects",
    "open_device",
    "open_tap",
    "remove_veth",
    "run_fast_sockets",
    "run_network",
    "set_default_routes",
]
