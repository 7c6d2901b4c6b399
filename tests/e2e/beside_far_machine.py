"""Runs a test function of `test_fast_sockets` where another machine can be reached: in a network namespace with a wire
to a second one, in which FAR answers.

    unshare --map-current-user --keep-caps --net python -m tests.e2e.beside_far_machine FUNCTION HOME COMMAND"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from pathlib import Path

from pyroute2 import IPRoute

from tests.e2e import test_fast_sockets
from tests.e2e.conftest import Installation

NEAR, FAR = "203.0.113.1", "203.0.113.2"
GREETS, HOLDS = 80, 81
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 1, 47, 4
_library = ctypes.CDLL(None)


def _up(device: str, address: str) -> None:
    with IPRoute() as ip:
        (index,) = ip.link_lookup(ifname=device)
        ip.addr("add", index=index, address=address, prefixlen=24)
        ip.link("set", index=index, state="up")
        ip.link("set", index=1, state="up")


def _far_machine() -> None:
    """In a process of its own; greets everybody and hangs up, or does not."""
    parent = socket.socket(fileno=0)
    assert _library.unshare(_CLONE_NEWNET) == 0
    parent.send(b"made")
    assert parent.recv(10) == b"wired"
    _up("far1", FAR)
    listeners = [socket.create_server((FAR, port)) for port in (GREETS, HOLDS)]
    if os.fork():
        held = []
        parent.send(b"ready")
        while True:
            held.append(listeners[1].accept()[0])
            held[-1].send(b"hello\n")
    _library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    while True:
        with listeners[0].accept()[0] as sock:
            sock.send(b"hello\n")


def main() -> None:
    function, home, command = sys.argv[1:]
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        _library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(theirs.fileno(), 0)
        _far_machine()
    assert ours.recv(10) == b"made"
    with IPRoute() as ip:
        ip.link("add", ifname="far0", kind="veth", peer={"ifname": "far1", "net_ns_pid": pid})
    _up("far0", NEAR)
    ours.send(b"wired")
    assert ours.recv(10) == b"ready"
    _library.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)  # what is executed is an ordinary user's
    installation = Installation(Path(command), Path(home), dict(os.environ))
    try:
        getattr(test_fast_sockets, function)(installation)
    finally:
        installation("system", "stop", "--force", check=None)


if __name__ == "__main__":
    main()
