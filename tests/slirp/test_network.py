"""The network with a real kernel as its guest: a TAP in a namespace of our own, sockets of both sides.

The guest's sockets are made inside the namespace by a helper process and handed out: a socket belongs to the namespace
it was made in, whoever uses it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.kernel
TOP = Path(__file__).parent.parent.parent
_HELPER = """
import os, socket, sys
out = socket.socket(fileno=int(sys.argv[1]))
out.send(b"up")
while (kind := out.recv(16)):
    made = socket.socket(*map(int, kind.split()))
    socket.send_fds(out, [b"x"], [made.fileno()])
    made.close()
"""


class Guest:
    """Makes sockets inside the namespace; `gateway` is the host's loopback."""

    gateway = "10.0.2.2"
    address = "10.0.2.100"

    def __init__(self, channel: socket.socket, directory: Path) -> None:
        self._channel = channel
        self.api, self.pcap = directory / "api.sock", directory / "all.pcap"
        self.networks: list[int] = []  # processes

    def socket(self, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET) -> socket.socket:
        self._channel.send(f"{int(family)} {int(kind)}".encode())
        _, (fd,), _, _ = socket.recv_fds(self._channel, 16, 1)
        made = socket.socket(fileno=fd)
        made.settimeout(20)
        return made

    def connect(self, port: int) -> socket.socket:
        made = self.socket()
        made.connect((self.gateway, port))
        return made


@pytest.fixture(scope="module", params=[1500, 65520])
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = ["unshare", "-Urn", sys.executable, "-c", _HELPER, str(theirs.fileno())]
    inside = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    theirs.close()
    assert ours.recv(16) == b"up"
    made = Guest(ours, tmp_path_factory.mktemp("network"))
    ready_read, ready_write = os.pipe()
    exit_read, exit_write = os.pipe()
    network = subprocess.Popen(
        [
            *(sys.executable, "-m", "slirp", "--configure", "--mtu", str(request.param)),
            *("--enable-ipv6", "--api-socket", str(made.api), "--pcap", str(made.pcap), "--netns-type=path"),
            *("-r", str(ready_write), "-e", str(exit_read), f"--userns-path=/proc/{inside.pid}/ns/user"),
            *(f"/proc/{inside.pid}/ns/net", "tap0"),
        ],
        pass_fds=[ready_write, exit_read],
        cwd=TOP,
    )
    for fd in (ready_write, exit_read):
        os.close(fd)
    assert os.read(ready_read, 1) == b"1"
    made.networks = [
        int(child) for child in Path(f"/proc/{network.pid}/task/{network.pid}/children").read_text().split()
    ]
    yield made
    os.close(exit_write)
    assert network.wait(20) == 0
    ours.close()
    inside.wait(20)


def serve(answer: Callable[[socket.socket], None]) -> tuple[int, threading.Thread]:
    """A server on the host's loopback for one connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with listener:
            connection, _ = listener.accept()
        connection.settimeout(20)
        with connection:
            answer(connection)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return listener.getsockname()[1], thread


def receive(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


def try_to_send(sock: socket.socket) -> int:
    """Bytes taken; 0 where none are within the socket's timeout."""
    try:
        return sock.send(bytes(1 << 20))
    except TimeoutError:
        return 0


def test_bytes_pass_both_ways_at_once(guest: Guest) -> None:
    size = 24 << 20
    down, up = random.Random(1).randbytes(size), random.Random(2).randbytes(size)
    got: dict[str, str] = {}

    def answer(connection: socket.socket) -> None:
        sender = threading.Thread(target=lambda: (connection.sendall(down), connection.shutdown(socket.SHUT_WR)))
        sender.start()
        got["up"] = hashlib.sha256(receive(connection)).hexdigest()
        sender.join()

    port, thread = serve(answer)
    with guest.connect(port) as client:
        sender = threading.Thread(target=lambda: (client.sendall(up), client.shutdown(socket.SHUT_WR)))
        sender.start()
        got["down"] = hashlib.sha256(receive(client)).hexdigest()
        sender.join()
    thread.join(20)
    assert got == {"up": hashlib.sha256(up).hexdigest(), "down": hashlib.sha256(down).hexdigest()}


def test_the_hosts_loopback_over_ipv6(guest: Guest) -> None:
    listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    with listener, guest.socket(family=socket.AF_INET6) as client:
        client.connect(("fd00::2", listener.getsockname()[1]))
        server, _ = listener.accept()
        with server:
            client.sendall(b"six")
            assert server.recv(10) == b"six"


def test_no_call_ends_the_network(guest: Guest) -> None:
    for sent in (b"[" * 1100, b"[" * 100_000, b"\xff", b""):
        with socket.socket(socket.AF_UNIX) as api:
            api.settimeout(20)
            api.connect(str(guest.api))
            api.sendall(sent)
            api.shutdown(socket.SHUT_WR)
            assert "error" in json.loads(receive(api))


@pytest.mark.parametrize("option", ["--exit-fd", "--ready-fd"])
@pytest.mark.parametrize("number", ["99", "-1", "99999999999999999999"])
def test_a_descriptor_that_is_not_open(option: str, number: str) -> None:
    command = [sys.executable, "-m", "slirp", f"{option}={number}", "1"]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, f"rootless-slirp: {option} {number} is no open descriptor\n")


def test_a_descriptor_that_cannot_be_written_to() -> None:
    command = ["unshare", "-Urn", "sh", "-c", 'exec "$0" -m slirp --ready-fd=0 $$ </dev/null', sys.executable]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (
        1,
        "rootless-slirp: --ready-fd 0 cannot be written to: Bad file descriptor\n",
    )


def call(guest: Guest, execute: str, **arguments: object) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as api:
        api.connect(str(guest.api))
        api.sendall(json.dumps({"execute": execute, "arguments": arguments}).encode())
        api.shutdown(socket.SHUT_WR)
        answer: dict[str, Any] = json.loads(receive(api))
        return answer


@contextlib.contextmanager
def forwarded(guest: Guest, guest_port: int) -> Iterator[int]:
    """A port of the host's loopback that leads to the guest's."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = call(guest, "add_hostfwd", proto="tcp", host_addr="127.0.0.1", host_port=port, guest_port=guest_port)
    yield port
    assert call(guest, "remove_hostfwd", id=made["return"]["id"]) == {"return": {}}


def test_a_port_forwarded_by_the_api_socket(guest: Guest) -> None:
    with guest.socket() as listener:
        listener.bind((guest.address, 8080))
        listener.listen()
        with forwarded(guest, 8080) as port, socket.create_connection(("127.0.0.1", port)) as client:
            server, _ = listener.accept()
            with server:
                client.sendall(b"in")
                assert server.recv(10) == b"in"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize("guest", [1500], indirect=True)
def test_a_server_that_accepts_nothing_for_a_while_gets_all_connections_in_the_end(guest: Guest) -> None:
    """A kernel whose queue for accept(2) has room answers all SYNs of that moment, and resets those that had none after
    all, some 7 seconds later: only so many may be asked for at once."""
    count = 300
    with guest.socket() as listener, forwarded(guest, 8081) as port, contextlib.ExitStack() as clients:
        listener.bind((guest.address, 8081))
        listener.listen(32)
        opened = []
        for pid in guest.networks:
            os.kill(pid, signal.SIGSTOP)
        for _ in range(count):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))  # all at once
            opened.append(client)
        for pid in guest.networks:
            os.kill(pid, signal.SIGCONT)
        for client in opened:
            client.settimeout(30)
            client.sendall(b"question")
        time.sleep(9)

        def run() -> None:
            for _ in range(count):
                server, _ = listener.accept()
                with server:
                    server.sendall(server.recv(100))

        threading.Thread(target=run, daemon=True).start()
        assert [client.recv(100) for client in opened] == [b"question"] * count


def test_the_capture_has_whole_frames(guest: Guest) -> None:
    port, _ = serve(lambda connection: connection.sendall(b"needle in the capture"))
    with guest.connect(port) as client:
        receive(client)
    data = guest.pcap.read_bytes()
    assert data[:4] == bytes.fromhex("4d3cb2a1")
    position, frames = 24, []
    while position < len(data):
        _, _, length, original = struct.unpack_from("<IIII", data, position)
        assert length == original
        frames.append(data[position + 16 : position + 16 + length])
        position += 16 + length
    assert position == len(data)
    assert any(b"needle in the capture" in frame for frame in frames)


def test_many_connections_at_once(guest: Guest) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=200)

    def run() -> None:
        with listener:
            for _ in range(100):
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(connection.recv(100))

    threading.Thread(target=run, daemon=True).start()
    clients = [guest.connect(listener.getsockname()[1]) for _ in range(100)]
    for number, client in enumerate(clients):
        client.sendall(b"%d" % number)
    for number, client in enumerate(clients):
        assert receive(client) == b"%d" % number
        client.close()


def test_half_closed_connections_still_carry_the_other_half(guest: Guest) -> None:
    port, _ = serve(lambda connection: connection.sendall(receive(connection)[::-1]))
    with guest.connect(port) as client:
        client.sendall(b"abc")
        client.shutdown(socket.SHUT_WR)
        assert receive(client) == b"cba"


def test_a_closed_port_refuses(guest: Guest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        guest.connect(port)


def test_a_reset_arrives_as_a_reset(guest: Guest) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    port, thread = serve(answer)
    with guest.connect(port) as client:
        client.sendall(b"x")
        thread.join(20)
        with pytest.raises(ConnectionResetError):
            receive(client)


def test_a_guest_that_resets_resets_the_host(guest: Guest) -> None:
    seen: list[str] = []

    def answer(connection: socket.socket) -> None:
        try:
            receive(connection)
            seen.append("end")
        except ConnectionResetError:
            seen.append("reset")

    port, thread = serve(answer)
    client = guest.connect(port)
    client.sendall(b"x")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    thread.join(20)
    assert seen == ["reset"]


def test_a_slow_reader_holds_the_sender_and_gets_everything(guest: Guest) -> None:
    size = 24 << 20
    go = threading.Event()
    got: list[int] = []

    def answer(connection: socket.socket) -> None:
        go.wait(20)
        got.append(len(receive(connection)))

    port, thread = serve(answer)
    with guest.connect(port) as client:
        client.settimeout(0.5)
        sent = 0
        while (taken := try_to_send(client)) and sent < 256 << 20:
            sent += taken
        assert sent < 256 << 20  # the window is shut long before
        go.set()
        client.settimeout(20)
        while sent < size:
            sent += client.send(bytes(1 << 20))
    thread.join(20)
    assert got == [sent]


@pytest.mark.parametrize("size", [0, 1, 1400, 9000, 60000])
def test_datagrams_of_every_size(guest: Guest, size: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, guest.socket(socket.SOCK_DGRAM) as client:
        server.bind(("127.0.0.1", 0))
        server.settimeout(20)
        port = server.getsockname()[1]
        data = os.urandom(size)
        client.sendto(data, (guest.gateway, port))
        got, source = server.recvfrom(65535)
        assert got == data
        server.sendto(data[::-1], source)
        assert client.recvfrom(65535) == (data[::-1], (guest.gateway, port))


def test_a_datagram_to_a_closed_port_is_refused(guest: Guest) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with guest.socket(socket.SOCK_DGRAM) as client:
        client.connect((guest.gateway, port))
        client.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)


def test_the_hosts_own_loopback_addresses_are_out_of_reach(guest: Guest) -> None:
    with guest.socket() as client:
        client.settimeout(0.3)
        with pytest.raises(OSError):
            client.connect(("127.0.0.2", 1))
