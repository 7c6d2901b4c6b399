"""`rootless-slirp`: a network for a process in another network namespace, with slirp4netns' command line, so that
podman (`network_cmd_path`) and RootlessKit can use it.

A child enters the namespaces, makes the device there and sends it back; the network then runs in another child, in the
namespace it was started in. This process serves the API socket and waits for the end."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import ipaddress
import json
import os
import re
import select
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slirp.config import NetworkConfig
from slirp.devices.tap import open_device

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # include/uapi/linux/sched.h
_GUEST_HOST_NUMBER, _GATEWAY_HOST_NUMBER, _DNS_HOST_NUMBER = 100, 2, 3  # slirp4netns(1): 10.0.2.100, .2, .3
_SUBNET6 = "fd00::/64"
_MAC = "02:00:00:00:02:64"
_MAX_MTU = 65520  # slirp4netns' own maximum is one more than a TAP's
_VERSION = "1.2.0"  # of the command line that is understood


@dataclass(frozen=True)
class _Plan:
    """What is to be made, from the command line. Addresses with their prefix length; "" where there are none."""

    config: NetworkConfig
    address4: str
    address6: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 and a message where it cannot start."""
    asked = _parser().parse_args(arguments)
    try:
        for option, fd in (("--exit-fd", asked.exit_fd), ("--ready-fd", asked.ready_fd)):
            _check_open(option, fd)  # before there are descriptors of ours
        plan = _plan(asked)
        device = _device_of(asked, plan)
        listener = _api_listener(asked.api_socket) if asked.api_socket else None
        capture = os.open(asked.pcap, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600) if asked.pcap else -1
    except (ValueError, IndexError, OSError) as error:
        return _failed(error)
    try:
        _serve(plan, device, listener, capture, asked.ready_fd, asked.exit_fd)
    except (ValueError, OSError) as error:
        return _failed(error)
    finally:
        if listener is not None:
            with contextlib.suppress(OSError):
                os.unlink(asked.api_socket)
    return 0


def _failed(error: Exception) -> int:
    sys.stderr.write(f"rootless-slirp: {error}\n")
    return 1


def _check_open(option: str, fd: int | None) -> None:
    """Raises ValueError."""
    try:
        if fd is not None:
            os.fstat(fd)
    except (OSError, OverflowError):
        raise ValueError(f"{option} {fd} is no open descriptor") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rootless-slirp", description="A user-space network for a network namespace.")
    option = parser.add_argument
    option("target", metavar="PID|PATH", help="a process in the namespace, or the namespace's path")
    option("tapname", metavar="TAPNAME", nargs="?", default="tap0", help="name of the device to make there (tap0)")
    option("-c", "--configure", action="store_true", help="give the device its addresses and routes")
    option("-e", "--exit-fd", type=int, metavar="FD", help="leave when anything happens to this")
    option("-r", "--ready-fd", type=int, metavar="FD", help="write 1 here when the network works")
    option("-m", "--mtu", type=int, default=1500, metavar="N", help=f"from 576 to {_MAX_MTU} (1500)")
    option("-6", "--enable-ipv6", action="store_true", help=f"addresses of {_SUBNET6} too")
    option("-a", "--api-socket", metavar="PATH", help="serve add_hostfwd, list_hostfwd and remove_hostfwd here")
    option("--cidr", default="10.0.2.0/24", metavar="CIDR", help="network of the guest (10.0.2.0/24)")
    option("--disable-host-loopback", action="store_true", help="the gateway is not the host's loopback")
    option("--netns-type", choices=("pid", "path"), default="pid", help="what the target is (pid)")
    option("--userns-path", metavar="PATH", help="the user namespace to enter first")
    option("--enable-sandbox", action="store_true", help="accepted: it is always on")
    option("--enable-seccomp", action="store_true", help="accepted: it is always on")
    option("--outbound-addr", default="", metavar="IPv4|INTERFACE", help="where connections come from on the host")
    option("--outbound-addr6", default="", metavar="IPv6|INTERFACE", help="likewise for IPv6")
    option("--disable-dns", action="store_true", help="nobody answers queries")
    option("--macaddress", default="", metavar="MAC", help="of the device (with --configure)")
    option("--target-type", choices=("netns", "bess"), default="netns", help="netns alone")
    option("--pcap", metavar="FILE", help="write all packets here, for tshark or Wireshark (not in slirp4netns)")
    option("-v", "--version", action="version", version=f"slirp4netns version {_VERSION} (rootless-slirp)")
    return parser


def _plan(asked: argparse.Namespace) -> _Plan:
    """Raises ValueError, IndexError (a subnet that is too small)."""
    if asked.target_type != "netns":
        raise ValueError("--target-type=bess is not possible: give a network namespace")
    if asked.macaddress and not asked.configure:
        raise ValueError("--macaddress needs --configure")
    if asked.macaddress and not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", asked.macaddress):
        raise ValueError(f"{asked.macaddress} is no MAC address")
    subnet = ipaddress.IPv4Interface(asked.cidr).network
    value: dict[str, object] = {
        "name": "slirp",
        "subnet4": str(subnet),
        "gateway4": str(subnet[_GATEWAY_HOST_NUMBER]),
        "dns4": str(subnet[_DNS_HOST_NUMBER]),
        "dns": not asked.disable_dns,
        "mtu": min(asked.mtu, _MAX_MTU) if asked.mtu <= _MAX_MTU + 1 else asked.mtu,
        "host_loopback": not asked.disable_host_loopback,
        "outbound4": _outbound(asked.outbound_addr, 4),
        "outbound6": _outbound(asked.outbound_addr6, 6),
    }
    address6 = ""
    if asked.enable_ipv6:
        subnet6 = ipaddress.IPv6Network(_SUBNET6)
        value |= {"subnet6": _SUBNET6, "autoconf6": True}
        value |= {"gateway6": str(subnet6[_GATEWAY_HOST_NUMBER]), "dns6": str(subnet6[_DNS_HOST_NUMBER])}
        address6 = f"{subnet6[_GUEST_HOST_NUMBER]}/{subnet6.prefixlen}"
    address4 = f"{subnet[_GUEST_HOST_NUMBER]}/{subnet.prefixlen}"
    return _Plan(NetworkConfig.from_dict(value), address4, address6)


def _outbound(text: str, version: int) -> str:
    """An address, or that of the interface which is named. Raises ValueError."""
    if not text:
        return ""
    with contextlib.suppress(ValueError):
        return str(ipaddress.IPv4Address(text) if version == 4 else ipaddress.IPv6Address(text))
    found = _interface_address4(text) if version == 4 else _interface_address6(text)
    if not found:
        raise ValueError(f"{text} is neither an IPv{version} address nor an interface that has one")
    return found


def _interface_address4(name: str) -> str:
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        answer = fcntl.ioctl(sock, 0x8915, struct.pack("16s24x", name.encode()))  # SIOCGIFADDR
        return socket.inet_ntoa(answer[20:24])
    return ""


def _interface_address6(name: str) -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            words = line.split()
            if words[5] == name and words[3] == "00":  # global
                return str(ipaddress.IPv6Address(bytes.fromhex(words[0])))
    return ""


# ------------------------------------------------------------------------------------------------ the device
def _device_of(asked: argparse.Namespace, plan: _Plan) -> tuple[int, str]:
    """The device and its MAC, made and configured by a child in the namespaces. Raises OSError, ValueError."""
    user, network = _namespaces(asked)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    child = os.fork()
    if child == 0:
        try:
            for path, flag in ((user, _CLONE_NEWUSER), (network, _CLONE_NEWNET)):
                if path:
                    _enter(path, flag)
            tap = open_device(asked.tapname, plan.config.mtu)
            if asked.configure:
                _configure(asked, plan)
            socket.send_fds(theirs, [_mac_of(asked.tapname).encode()], [tap])
        except BaseException as error:
            theirs.sendall(str(error).encode())
        finally:
            os._exit(0)
    theirs.close()
    message, descriptors, _, _ = socket.recv_fds(ours, 4096, 1)
    os.waitpid(child, 0)
    ours.close()
    if not descriptors:
        raise OSError(f"cannot make {asked.tapname} in the network namespace of {asked.target}: {message.decode()}")
    return descriptors[0], message.decode()


def _namespaces(asked: argparse.Namespace) -> tuple[str, str]:
    """Paths of the user namespace, "" for ours, and of the network namespace. Raises ValueError."""
    user: str = asked.userns_path or ""
    if asked.netns_type == "path":
        return user, asked.target
    if not asked.target.isdigit():
        raise ValueError(f"{asked.target} is no process id (for a path: --netns-type=path)")
    return user or f"/proc/{asked.target}/ns/user", f"/proc/{asked.target}/ns/net"


def _enter(path: str, flag: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    kind = "user" if flag == _CLONE_NEWUSER else "net"
    wanted, own = os.stat(path), os.stat(f"/proc/self/ns/{kind}")
    if (wanted.st_ino, wanted.st_dev) == (own.st_ino, own.st_dev):
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if library.setns(fd, flag):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def _configure(asked: argparse.Namespace, plan: _Plan) -> None:
    from slirp.devices.guest import configure_guest, loopback_up

    loopback_up()
    config = plan.config
    mac = asked.macaddress or _MAC
    configure_guest(asked.tapname, mac, config.mtu, plan.address4, config.gateway4, plan.address6, config.gateway6)


def _mac_of(name: str) -> str:
    """Of a device in this namespace. Raises OSError."""
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, 0x8927, struct.pack("16s24x", name.encode()))  # SIOCGIFHWADDR
    return ":".join(f"{byte:02x}" for byte in answer[18:24])


# ------------------------------------------------------------------------------------------------ the network
def _api_listener(path: str) -> socket.socket:
    """Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(16)
    return listener


def _serve(
    plan: _Plan,
    device: tuple[int, str],
    listener: socket.socket | None,
    capture: int,
    ready_fd: int | None,
    exit_fd: int | None,
) -> None:
    """The network in a child, so that it has one thread and nothing else; here is what may take its time."""
    from slirp.hostfwd import HostForwards
    from slirp.run import run_network

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        for fd in (exit_fd, ready_fd, listener.fileno() if listener is not None else None):
            if fd is not None:
                os.close(fd)
        try:
            run_network(plan.config, theirs)
        finally:
            os._exit(0)
    theirs.close()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    tap, mac = device
    attach: dict[str, object] = {"type": "Attach", "endpoint_id": "guest", "mac": mac, "names": []}
    _ask(ours, attach | {"address4": plan.address4, "address6": plan.address6}, tap)
    if capture >= 0:
        _ask(ours, {"type": "Capture"}, capture)
    if ready_fd is not None:
        try:
            os.write(ready_fd, b"1")
        except OSError as error:
            raise ValueError(f"--ready-fd {ready_fd} cannot be written to: {error.strerror}") from None
        os.close(ready_fd)
    forwards = HostForwards(plan.address4.partition("/")[0], lambda command, fd: _ask(ours, command, fd))
    waiting = select.poll()
    waiting.register(ours, select.POLLIN)
    if exit_fd is not None:
        waiting.register(exit_fd, select.POLLIN)
    if listener is not None:
        waiting.register(listener, select.POLLIN)
    while True:
        for fd, _ in waiting.poll():
            if listener is None or fd != listener.fileno():
                return  # the network has ended, or should
            with contextlib.suppress(OSError):  # it has gone, or there is no descriptor for it
                forwards.serve(listener.accept()[0])


def _ask(control: socket.socket, command: dict[str, object], fd: int) -> None:
    """Raises ValueError where the network refuses. The descriptor is closed."""
    data = json.dumps(command).encode()
    try:
        socket.send_fds(control, [data], [fd] if fd >= 0 else [])
    finally:
        if fd >= 0:
            os.close(fd)
    answer = json.loads(control.recv(1 << 16) or b'{"error": "it has ended"}')
    if "error" in answer:
        raise ValueError(f"the network refuses: {answer['error']}")


if __name__ == "__main__":
    sys.exit(main())
