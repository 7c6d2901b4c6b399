"""A host and its guests as network namespaces: real kernels on both sides of a network, and nothing outside.

The host's namespace has loopback and a device with an address that stands for the world outside; the network process
runs there. Sockets are made inside by a helper process and handed out: a socket belongs to the namespace it was made
in, whoever uses it."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import select
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from pyroute2 import IPRoute

import slirp
from slirp.devices.veth import open_veth
from slirp.testing import Faults, FaultyWire, on_the_wire

TOP = Path(__file__).parent.parent.parent
OUTSIDE = "192.0.2.1"  # an address of the host's that is not loopback
GATEWAY = "10.77.0.1"
OUTSIDE6, GATEWAY6, PREFIX6 = "2001:db8::1", "fd00:77::1", "fd00:77::/64"
NEAR, FAR, NEAR6, FAR6 = "203.0.113.1", "203.0.113.2", "2001:db8:1::1", "2001:db8:1::2"
STREAM = socket.SOCK_STREAM
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def _unshare(flags: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")


class Place:
    """A process in a network namespace of its own, asked for sockets. `prepare` runs there first."""

    def __init__(self, flags: int, channel: tuple[socket.socket, socket.socket], pid: int) -> None:
        self._channel, other = channel
        self.pid = pid
        other.close()

    def ask(self, **request: Any) -> list[int]:
        """Descriptors. Raises OSError."""
        self._channel.send(json.dumps(request).encode())
        data, descriptors, _, _ = socket.recv_fds(self._channel, 65536, 2)
        if data != b"ok":
            raise OSError(data.decode())
        return descriptors

    def socket(self, kind: int = STREAM, protocol: int = 0, family: int = socket.AF_INET) -> socket.socket:
        (fd,) = self.ask(do="socket", family=int(family), kind=int(kind), protocol=protocol)
        made = socket.socket(fileno=fd)
        made.settimeout(10)
        return made

    def connect(self, address: str, port: int) -> socket.socket:
        made = self.socket(family=_family(address))
        try:
            made.connect((address, port))
        except BaseException:
            made.close()
            raise
        return made

    def listen(self, address: str, port: int = 0, kind: int = STREAM) -> socket.socket:
        made = self.socket(kind, family=_family(address))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        if kind == socket.SOCK_STREAM:
            made.listen(64)
        return made

    def close(self) -> None:
        self._channel.close()
        os.waitpid(self.pid, 0)


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Guest(Place):
    address: str
    address6: str
    mac: str
    tap: int

    def packet_socket(self) -> socket.socket:
        """Takes and sends whole frames on the guest's device."""
        made = self.socket(socket.SOCK_RAW, 0, socket.AF_PACKET)
        made.bind(("tap0", 3))  # ETH_P_ALL
        return made


class FastSockets:
    """The supervisor of a guest's fast sockets, in the host's namespace. Programs run in the guest."""

    def __init__(self, lab: Lab, guest: Guest) -> None:
        self._lab, self._guest = lab, guest
        self._listeners: list[int] = []
        self._start()

    def _start(self) -> None:
        control, self._pidfd = self._lab.host.ask(do="fast", config=self._lab.config.as_dict())
        self.control = socket.socket(fileno=control)
        for number, listener in enumerate(self._listeners):
            self._tell(listener, number)

    def _tell(self, listener: int, number: int) -> None:
        socket.send_fds(self.control, [json.dumps({"type": "Watch", "watch": number}).encode()], [listener])

    def program(self, code: str) -> BinaryIO:
        """Run Python in the guest; its output."""
        listener, output = self._guest.ask(do="reported", code=code)
        self._listeners.append(listener)
        self._tell(listener, len(self._listeners) - 1)
        return os.fdopen(output, "rb")

    def kill(self) -> None:
        """-9."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        select.select([self._pidfd], [], [], 10)
        os.close(self._pidfd)
        self.control.close()

    def start_again(self) -> None:
        self._start()

    def close(self) -> None:
        self.kill()
        for listener in self._listeners:
            os.close(listener)


class Lab:
    """A network with its host."""

    def __init__(self, **config: Any) -> None:
        self.config = slirp.NetworkConfig.from_dict(
            {
                "name": "lab",
                "subnet4": "10.77.0.0/16",
                "gateway4": GATEWAY,
                "subnet6": PREFIX6,
                "gateway6": GATEWAY6,
                **config,
            }
        )
        self.guests: list[Guest] = []
        self.host = _place(Place, _CLONE_NEWUSER | _CLONE_NEWNET, None)
        self.host.ask(do="host")
        (control,) = self.host.ask(do="network", config=self.config.as_dict())
        self.control = socket.socket(fileno=control)
        self.control.settimeout(10)
        children = Path(f"/proc/{self.host.pid}/task/{self.host.pid}/children").read_text()
        self.network_pid = int(children.split()[0])

    def far(self) -> Place:
        """Another machine, FAR and FAR6, that the host reaches by a wire."""
        place: Place = _place(Place, _CLONE_NEWNET, self.host)
        self.host.ask(do="far", pid=place.pid)
        place.ask(do="address", device="far1", address=f"{FAR}/24", address6=f"{FAR6}/64")
        return place

    def guest(self, names: tuple[str, ...] = (), faults: dict[str, float] | None = None, veth: bool = False) -> Guest:
        """`faults`, those of slirp.testing.Faults: its device is behind a wire that has them, both ways. `veth`: a
        device as where there is no /dev/net/tun."""
        number = len(self.guests) + 2
        guest = _place(Guest, _CLONE_NEWNET, self.host)
        guest.address, guest.mac = f"10.77.0.{number}", f"02:42:0a:4d:00:{number:02x}"
        guest.address6 = f"fd00:77::{number:x}"
        (guest.tap,) = guest.ask(
            do="guest",
            mac=guest.mac,
            mtu=self.config.mtu,
            address=f"{guest.address}/16",
            address6=f"{guest.address6}/64",
            faults=faults,
            veth=veth,
        )
        self.guests.append(guest)
        self.command(
            [guest.tap],
            type="Attach",
            endpoint_id=guest.address,
            mac=guest.mac,
            address4=f"{guest.address}/16",
            address6=f"{guest.address6}/64",
            names=names,
        )
        return guest

    def kernels(self, faults: dict[str, float]) -> tuple[Place, Place, str]:
        """Two places with a wire that has these faults between them, and no network of ours; the second's address."""
        places, taps = [], []
        for number in (1, 2):
            place: Place = _place(Place, _CLONE_NEWNET, self.host)
            places.append(place)
            taps += place.ask(do="end", mac=f"02:00:00:00:01:0{number}", address=f"10.78.0.{number}/24")
        process_id = os.fork()
        if process_id == 0:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            rng = random.Random(1)
            _carry(taps[0], taps[1], FaultyWire(Faults(**faults), rng), FaultyWire(Faults(**faults), rng))
        for tap in taps:
            os.close(tap)
        return places[0], places[1], "10.78.0.2"

    def command(self, descriptors: list[int], **command: Any) -> dict[str, Any]:
        socket.send_fds(self.control, [json.dumps(command).encode()], descriptors)
        answer: dict[str, Any] = json.loads(self.control.recv(65536))
        assert answer["ok"] is True, answer
        return answer

    def publish(self, guest: Guest, guest_port: int, sock: socket.socket, publish_id: str = "p") -> tuple[str, int]:
        """Where it is now; the socket is the network's."""
        protocol = "tcp" if sock.type == socket.SOCK_STREAM else "udp"
        where: tuple[str, int] = sock.getsockname()[:2]
        self.command(
            [sock.fileno()],
            type="Publish",
            publish_id=publish_id,
            endpoint_id=guest.address,
            guest_port=guest_port,
            protocol=protocol,
            host_ip=where[0],
            host_port=where[1],
        )
        sock.close()
        return where

    def close(self) -> None:
        self.control.close()
        for guest in self.guests:
            os.close(guest.tap)
            guest.close()
        self.host.close()


def _place(kind: Any, flags: int, inside: Place | None) -> Any:
    """Fork the helper, itself a new program: pytest's threads must not be forked. Guests are children of pytest in the
    host's user namespace."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.set_inheritable(True)
    arguments = [sys.executable, __file__, str(theirs.fileno()), str(flags), str(inside.pid if inside else 0)]
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    pid = os.posix_spawn(sys.executable, arguments, environment)
    made = kind(flags, (ours, theirs), pid)
    made.ask(do="nothing")
    return made


# ------------------------------------------------------------------------------------------------ in the namespace
def _helper(channel: socket.socket) -> None:
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
        _carry(ours.fileno(), tap, FaultyWire(faults, rng), FaultyWire(faults, rng))
    ours.close()
    os.close(tap)
    return theirs.detach()


def _carry(one: int, other: int, there: FaultyWire, back: FaultyWire) -> NoReturn:
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
    _helper(channel)


RESET_ON_CLOSE = struct.pack("ii", 1, 0)

if __name__ == "__main__":
    _main()
