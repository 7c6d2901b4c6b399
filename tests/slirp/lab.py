"""A host and its guests as network namespaces: real kernels on both sides of a network, and nothing outside.

The host's namespace has loopback and a device with an address that stands for the world outside; the network process
runs there. Sockets are made inside by a helper process and handed out: a socket belongs to the namespace it was made
in, whoever uses it. What the helper does stands in `lab_inside`."""

from __future__ import annotations

import ctypes
import json
import os
import random
import select
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

import slirp
from slirp.testing import Faults, FaultyWire
from tests.slirp.addresses import FAR, FAR6, GATEWAY, GATEWAY6, PREFIX6
from tests.slirp.lab_inside import carry

TOP = Path(__file__).parent.parent.parent
INSIDE = Path(__file__).with_name("lab_inside.py")
STREAM = socket.SOCK_STREAM
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000


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

    def __init__(self, lab: Lab, guest: Guest, **config: str) -> None:
        self._lab, self._guest, self._config = lab, guest, {**lab.config.as_dict(), **config}
        self._listeners: list[int] = []
        self._start()

    def _start(self) -> None:
        control, self._pidfd = self._lab.host.ask(do="fast", config=self._config)
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
        self._carriers: list[int] = []  # processes, of wires between kernels
        self.host = _place(Place, CLONE_NEWUSER | CLONE_NEWNET, None)
        self.host.ask(do="host")
        (control,) = self.host.ask(do="network", config=self.config.as_dict())
        self.control = socket.socket(fileno=control)
        self.control.settimeout(10)
        children = Path(f"/proc/{self.host.pid}/task/{self.host.pid}/children").read_text()
        self.network_pid = int(children.split()[0])

    def far(self) -> Place:
        """Another machine, FAR and FAR6, that the host reaches by a wire."""
        place: Place = _place(Place, CLONE_NEWNET, self.host)
        self.host.ask(do="far", pid=place.pid)
        place.ask(do="address", device="far1", address=f"{FAR}/24", address6=f"{FAR6}/64")
        return place

    def guest(self, names: tuple[str, ...] = (), faults: dict[str, float] | None = None, veth: bool = False) -> Guest:
        """`faults`, those of slirp.testing.Faults: its device is behind a wire that has them, both ways. `veth`: a
        device as where there is no /dev/net/tun."""
        number = len(self.guests) + 2
        guest = _place(Guest, CLONE_NEWNET, self.host)
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
            place: Place = _place(Place, CLONE_NEWNET, self.host)
            places.append(place)
            taps += place.ask(do="end", mac=f"02:00:00:00:01:0{number}", address=f"10.78.0.{number}/24")
        process_id = os.fork()
        if process_id == 0:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            rng = random.Random(1)
            carry(taps[0], taps[1], FaultyWire(Faults(**faults), rng), FaultyWire(Faults(**faults), rng))
        self._carriers.append(process_id)
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
        for process_id in self._carriers:  # they hold the other channels open
            os.kill(process_id, signal.SIGKILL)
            os.waitpid(process_id, 0)
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
    arguments = [sys.executable, str(INSIDE), str(theirs.fileno()), str(flags), str(inside.pid if inside else 0)]
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    pid = os.posix_spawn(sys.executable, arguments, environment)
    made = kind(flags, (ours, theirs), pid)
    made.ask(do="nothing")
    return made


def receive(sock: socket.socket) -> bytes:
    """All, up to the end."""
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


def talk(lab: Lab, guest: Guest, outside: str) -> None:
    """A connection of the guest's to the host works, both ways."""
    with lab.host.listen(outside) as listener, guest.connect(*listener.getsockname()[:2]) as client:
        server, address = listener.accept()
        assert address[0] == outside
        with server:
            server.sendall(b"hello")
            server.shutdown(socket.SHUT_WR)
            assert receive(client) == b"hello"
            client.sendall(b"thanks")
            client.shutdown(socket.SHUT_WR)
            assert receive(server) == b"thanks"
