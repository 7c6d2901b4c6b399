"""`rootless-slirp`: a network for a process in another network namespace, with slirp4netns' command line.

    rootless-slirp [--configure] [--mtu N] [--cidr CIDR] [--disable-host-loopback] [--disable-dns]
                   [--ready-fd FD] [--exit-fd FD] PID TAPNAME

A child enters the namespaces of PID, makes the device there and sends it back; the network then runs in the
foreground, in the namespace it was started in, until the exit descriptor ends or it is killed."""

from __future__ import annotations

import argparse
import ctypes
import ipaddress
import os
import socket
import sys
import threading
from collections.abc import Sequence

from slirp.config import NetworkConfig
from slirp.devices.tap import open_tap

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # include/uapi/linux/sched.h
_GUEST_HOST_NUMBER, _GATEWAY_HOST_NUMBER = 100, 2  # slirp4netns(1): 10.0.2.100 and 10.0.2.2
_MAC = "02:00:00:00:02:64"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 and a message where it cannot start."""
    asked = _parser().parse_args(arguments)
    try:
        subnet = ipaddress.IPv4Interface(asked.cidr).network
        guest, gateway = str(subnet[_GUEST_HOST_NUMBER]), str(subnet[_GATEWAY_HOST_NUMBER])
        config = NetworkConfig.from_dict(
            {
                "name": "slirp",
                "subnet4": str(subnet),
                "gateway4": gateway,
                "mtu": asked.mtu,
                "host_loopback": not asked.disable_host_loopback,
            }
        )
        address = f"{guest}/{subnet.prefixlen}"
        tap = _tap_of(asked.pid, asked.tapname, address if asked.configure else "", gateway, asked.mtu)
    except (ValueError, IndexError, OSError) as error:
        sys.stderr.write(f"rootless-slirp: {error}\n")
        return 1
    _serve(config, tap, address, asked.ready_fd, asked.exit_fd)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rootless-slirp", description="A user-space network for a network namespace.")
    parser.add_argument("pid", type=int, metavar="PID", help="a process in the namespace")
    parser.add_argument("tapname", metavar="TAPNAME", help="name of the device to make there")
    parser.add_argument("-c", "--configure", action="store_true", help="give the device its address and route")
    parser.add_argument("-m", "--mtu", type=int, default=1500, metavar="N", help="from 576 to 65520 (1500)")
    parser.add_argument("--cidr", default="10.0.2.0/24", help="network of the guest (10.0.2.0/24)")
    parser.add_argument("--disable-host-loopback", action="store_true", help="the gateway is not the host's loopback")
    parser.add_argument("--disable-dns", action="store_true", help="accepted; queries to the gateway find nobody")
    parser.add_argument("-r", "--ready-fd", type=int, metavar="FD", help="write 1 here when the network works")
    parser.add_argument("-e", "--exit-fd", type=int, metavar="FD", help="leave when this ends")
    return parser


def _tap_of(pid: int, name: str, address: str, gateway: str, mtu: int) -> int:
    """The device, made and configured by a child in the namespaces of `pid`. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    child = os.fork()
    if child == 0:
        try:
            _enter(pid)
            tap = open_tap(name)
            if address:
                from slirp.devices.guest import configure_guest, loopback_up

                loopback_up()
                configure_guest(name, _MAC, mtu, address, gateway)
            socket.send_fds(theirs, [b"ok"], [tap])
        except BaseException as error:
            theirs.sendall(str(error).encode())
        finally:
            os._exit(0)
    theirs.close()
    message, descriptors, _, _ = socket.recv_fds(ours, 4096, 1)
    os.waitpid(child, 0)
    ours.close()
    if not descriptors:
        raise OSError(f"cannot make {name} in the network namespace of process {pid}: {message.decode()}")
    return descriptors[0]


def _enter(pid: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    for kind, flag in (("user", _CLONE_NEWUSER), ("net", _CLONE_NEWNET)):
        path = f"/proc/{pid}/ns/{kind}"
        if os.stat(path).st_ino == os.stat(f"/proc/self/ns/{kind}").st_ino:
            continue
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if library.setns(fd, flag):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)


def _serve(config: NetworkConfig, tap: int, address: str, ready_fd: int | None, exit_fd: int | None) -> None:
    """The network in a child, so that it has one thread; this process waits for the end."""
    from slirp.run import run_network

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        try:
            run_network(config, theirs)
        finally:
            os._exit(0)
    theirs.close()
    mac_text = f'"mac": "{_guest_mac(tap)}"'
    attach = f'{{"type": "Attach", "endpoint_id": "guest", {mac_text}, "address4": "{address}", "names": []}}'
    socket.send_fds(ours, [attach.encode()], [tap])
    ours.recv(4096)
    os.close(tap)
    if ready_fd is not None:
        os.write(ready_fd, b"1")
        os.close(ready_fd)
    if exit_fd is not None:
        threading.Thread(target=_leave_with, args=(exit_fd, ours), daemon=True).start()
    ours.recv(1)  # until the network ends


def _guest_mac(tap: int) -> str:
    """The device's own address (TUN devices answer SIOCGIFHWADDR)."""
    import fcntl
    import struct

    answer = fcntl.ioctl(tap, 0x8927, struct.pack("16sH22x", b"", 0))
    return ":".join(f"{byte:02x}" for byte in answer[18:24])


def _leave_with(fd: int, control: socket.socket) -> None:
    while os.read(fd, 64):
        pass
    control.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    sys.exit(main())
