"""The helper process of a place in a lab: makes sockets, devices and processes in the network namespace it is in, and
hands them out. `lab` starts it as a program of its own.

    lab_inside.py CHANNEL FLAGS PID      a descriptor, what to unshare(2), whose user namespace to enter first (or 0)"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

from pyroute2 import IPRoute

import slirp
from slirp.devices.veth import open_veth
from slirp.testing import Faults, FaultyWire, on_the_wire
from tests.slirp.addresses import GATEWAY, GATEWAY6, NEAR, NEAR6, OUTSIDE, OUTSIDE6

_CLONE_NEWUSER = 0x10000000


def _unshare(flags: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")


def _serve(channel: socket.socket) -> None:
    """Serve `Place.ask`."""
    while data := channel.recv(65536):
        request = json.loads(data)
        try:
            made = globals()[f"_do_{request.pop('do')}"](**request)
        except OSError as error:
            channel.send(str(error).encode())
            continue
        socket.send_fds(channel, [b"ok"], made)
        for fd in made:
            os.close(fd)


def _do_nothing() -> list[int]:
    return []


def _do_socket(family: int, kind: int, protocol: int) -> list[int]:
    return [socket.socket(family, kind, protocol).detach()]


def _do_host() -> list[int]:
    """Loopback, the address outside, and the right to ping."""
    slirp.loopback_up()
    device = slirp.open_tap("out0")  # stays open with the process
    os.set_inheritable(device, False)
    slirp.configure_guest("out0", "02:00:00:00:00:99", 1500, f"{OUTSIDE}/24", "", f"{OUTSIDE6}/64")
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")
    return []


def _do_far(pid: int) -> list[int]:
    """A wire to another machine."""
    with IPRoute() as ip:
        ip.link("add", ifname="far0", kind="veth", peer={"ifname": "far1", "net_ns_pid": pid})
    _address("far0", f"{NEAR}/24", f"{NEAR6}/64")
    return []


def _do_address(device: str, address: str, address6: str) -> list[int]:
    slirp.loopback_up()
    _address(device, address, address6)
    return []


def _address(device: str, *addresses: str) -> None:
    with IPRoute() as ip:
        (index,) = ip.link_lookup(ifname=device)
        Path(f"/proc/sys/net/ipv6/conf/{device}/accept_dad").write_text("0")
        for text in addresses:
            address, _, prefix = text.partition("/")
            ip.addr("add", index=index, address=address, prefixlen=int(prefix))
        ip.link("set", index=index, state="up")


def _do_guest(
    mac: str, mtu: int, address: str, address6: str, faults: dict[str, float] | None, veth: bool
) -> list[int]:
    slirp.loopback_up()
    tap = open_veth("tap0", mtu) if veth else slirp.open_tap("tap0", offload=faults is None)
    slirp.configure_guest("tap0", mac, mtu, address, GATEWAY, address6, GATEWAY6)
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")
    return [tap if faults is None else _behind_a_bad_wire(tap, Faults(**faults))]


def _do_end(mac: str, address: str) -> list[int]:
    slirp.loopback_up()
    tap = slirp.open_tap("tap0", offload=False)
    slirp.configure_guest("tap0", mac, 1500, address, "")
    return [tap]


def _do_write(path: str, text: str) -> list[int]:
    """A setting of the kernel's in this namespace."""
    Path(path).write_text(text)
    return []


def _behind_a_bad_wire(tap: int, faults: Faults) -> int:
    """A device like the TAP, but for what a process of its own does to the frames."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        theirs.close()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        rng = random.Random(1)
        carry(ours.fileno(), tap, FaultyWire(faults, rng), FaultyWire(faults, rng))
    ours.close()
    os.close(tap)
    return theirs.detach()


def carry(one: int, other: int, there: FaultyWire, back: FaultyWire) -> NoReturn:
    """Frames between two devices, until the first has ended."""
    waiting = select.poll()
    waiting.register(one, select.POLLIN)
    waiting.register(other, select.POLLIN)
    try:
        while True:
            for fd, _ in waiting.poll():
                data = os.read(fd, 70000)
                if not data:
                    os._exit(0)
                wire, to = (there, other) if fd == one else (back, one)
                for packet in on_the_wire(data):
                    for frame in wire.carry(packet):
                        os.write(to, frame)
    except BaseException as error:
        sys.stderr.write(f"the bad wire has broken: {error!r}\n")
        os._exit(1)


def _do_network(config: dict[str, Any]) -> list[int]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        try:
            slirp.run_network(slirp.NetworkConfig.from_dict(config), theirs)
        finally:
            os._exit(0)
    theirs.close()
    return [ours.detach()]


_fast_memory = mmap.mmap(-1, slirp.FAST_SOCKETS_BYTES)


def _do_fast(config: dict[str, Any]) -> list[int]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        try:
            slirp.run_fast_sockets(slirp.NetworkConfig.from_dict(config), theirs, _fast_memory)
        finally:
            os._exit(0)
    theirs.close()
    return [ours.detach(), os.pidfd_open(pid)]


def _do_reported(code: str) -> list[int]:
    """A program whose connect(2) is reported: [listener, output]."""
    output, writing = socket.socketpair()
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        os.dup2(writing.fileno(), 1)
        os.dup2(writing.fileno(), 2)
        listener = slirp.notify_connects()
        socket.send_fds(theirs, [b"x"], [listener])
        os.close(listener)
        theirs.close()
        os.execv(sys.executable, [sys.executable, "-c", code])
    writing.close()
    theirs.close()
    _, (listener,), _, _ = socket.recv_fds(ours, 1, 1)
    ours.close()
    return [listener, output.detach()]


def _main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    flags, inside = int(sys.argv[2]), int(sys.argv[3])
    uid, gid = os.getuid(), os.getgid()
    if inside:
        library = ctypes.CDLL(None, use_errno=True)
        fd = os.open(f"/proc/{inside}/ns/user", os.O_RDONLY)
        if library.setns(fd, _CLONE_NEWUSER):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(fd)
    _unshare(flags)
    if flags & _CLONE_NEWUSER:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    _serve(channel)


if __name__ == "__main__":
    _main()
