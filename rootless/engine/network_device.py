"""Which device a container's network can have on this host: a TAP, else a veth pair, else none.

It is opened to see; using it is slirp's."""

from __future__ import annotations

import functools
import os
import sys

TUN_DEVICE = "/dev/net/tun"


def device_problem() -> str:
    """Why there can be no network device; "" where there can."""
    closed = _tun_closed()
    if not closed or _veth_possible():
        return ""
    return (
        f"{closed}, and a pair of veth devices cannot be made: containers have no network but loopback. "
        f"Use --network host or none, or ask the administrator for: {_REMEDY}"
    )


def device_notice() -> str:
    """What an administrator would want to know though the network works; "" where all is as it should be."""
    closed = _tun_closed()
    if not closed or not _veth_possible():
        return ""
    return f"{closed}: networks run over veth pairs instead. For TAP devices ask the administrator for: {_REMEDY}"


_REMEDY = f"modprobe tun && chmod 666 {TUN_DEVICE}"


def _tun_closed() -> str:
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{TUN_DEVICE} cannot be opened ({(error.strerror or '').lower()})"
    return ""


@functools.cache
def _veth_possible() -> bool:
    """slirp's other device. Tried once, in a process of its own, and only where there is no TAP."""
    import subprocess

    tried = subprocess.run([sys.executable, "-P", "-m", "slirp.devices.veth"], capture_output=True, timeout=20)
    return tried.returncode == 0
