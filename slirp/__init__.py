"""A network in user space for people without root: switch, router, NAT, TCP, UDP, ICMP, DNS and published ports on TAP
devices, in one process per network. Stands alone; `rootless` uses the names below and no others."""

from slirp.config import NetworkConfig
from slirp.devices.guest import configure_guest, loopback_up, set_default_routes
from slirp.devices.tap import open_device, open_tap
from slirp.run import run_network

__all__ = [
    "NetworkConfig",
    "configure_guest",
    "loopback_up",
    "open_device",
    "open_tap",
    "run_network",
    "set_default_routes",
]
