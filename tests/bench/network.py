"""Speed of `rootless-slirp` beside slirp4netns, pasta and loopback, in one run.

    python -m tests.bench.network [--peers ours,slirp4netns,pasta,pasta-splice,loopback] [--mtu 1500,65520]
                                  [--seconds 3] [--flows 1,4,16] [--only tcp,udp,rr,connect,published,fast]

As an ordinary user, with iperf3 and the peers on PATH. The host is a network namespace of its own with loopback and
one address outside; every guest is another. Prints a line a measurement: Gbit/s or a rate, and the CPU seconds that
the network's process took for each gigabyte (the guest's and the server's are everybody's own). `pasta-splice` is its
way from the guest's loopback to the host's, without packets.

`fast`: from a guest to another machine (a further namespace, on a wire of veth) with fast sockets, beside pasta, the
stack and the host itself, which need that wire too, and loopback."""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slirp import FAST_SOCKETS_BYTES, NetworkConfig, notify_connects, run_fast_sockets

TOP = Path(__file__).parent.parent.parent
OUTSIDE = "192.0.2.1"  # on the host, and not loopback
SERVER_PORT, ECHO_PORT, GUEST_PORT, PUBLISHED_PORT = 5201, 5301, 5401, 5501
_HOST = f"""link set lo up
link add out0 type veth peer name out1
addr add {OUTSIDE}/24 dev out0
link set out0 up
link set out1 up
route add default via 192.0.2.254 dev out0
"""
FAR, FAR_WIRE = "203.0.113.2", "203.0.113.1"
FAR_PEERS = ("fast", "ours", "pasta", "host", "loopback")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Peer:
    """A running network: where the guest is, where it finds the host, and whose CPU time counts."""

    name: str
    inside: list[str]  # words before a command, to run it in the guest
    host: str
    process: subprocess.Popen[bytes] | None
    published: bool = False

    def cpu_seconds(self) -> float:
        """Of the process and its children."""
        if self.process is None:
            return 0.0
        return sum(_cpu_seconds(pid) for pid in _family(self.process.pid))


def _family(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *(one for child in children for one in _family(int(child)))]
    return []


def _cpu_seconds(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0


# ------------------------------------------------------------------------------------------------ the peers
@contextlib.contextmanager
def guest() -> Iterator[int]:
    """A process in a user and network namespace of its own."""
    process = subprocess.Popen(
        ["unshare", "-Urn", "sh", "-c", "ip link set lo up; echo; exec sleep 1000"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def network(name: str, mtu: int) -> Iterator[Peer]:
    if name == "loopback":
        yield Peer(name, [], "127.0.0.1", None)
        return
    with guest() as pid:
        inside = ["nsenter", "-t", str(pid), "-U", "-n", "--preserve-credentials"]
        published = True
        api = f"/tmp/bench-network-{os.getpid()}.sock"
        if name.startswith("pasta"):
            spliced = f"{SERVER_PORT},{ECHO_PORT}" if name == "pasta-splice" else "none"
            ports = ["-t", f"{PUBLISHED_PORT}:{GUEST_PORT}", "-u", "none", "-T", spliced, "-U", "none"]
            addresses = ["-a", "10.0.2.100", "-n", "24", "-g", "10.0.2.2", "-m", str(mtu)]
            words = ["pasta", "-f", "-q", "-4", "--config-net", "-i", "out0", *addresses, *ports, str(pid)]
            process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        else:
            program = ["slirp4netns"] if name == "slirp4netns" else [sys.executable, "-m", "slirp"]
            words = [*program, "-c", "-m", str(mtu), "--api-socket", api, str(pid), "tap0"]
            quiet = subprocess.DEVNULL
            process = subprocess.Popen(words, cwd=TOP, stdout=quiet, stderr=None if name == "ours" else quiet)
        try:
            _wait_for_device(inside)
            if not name.startswith("pasta"):
                published = _publish(api)
            yield Peer(name, inside, "127.0.0.1" if name == "pasta-splice" else "10.0.2.2", process, published)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(api)


def _wait_for_device(inside: list[str]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        shown = subprocess.run([*inside, "ip", "route"], capture_output=True, text=True).stdout
        if "default" in shown:
            return
    raise SystemExit("the guest has got no route")


def _publish(api: str) -> bool:
    """By slirp4netns' JSON calls."""
    call = {
        "execute": "add_hostfwd",
        "arguments": {"proto": "tcp", "host_port": PUBLISHED_PORT, "guest_port": GUEST_PORT},
    }
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(api)  # it may not be there yet
            sock.sendall(json.dumps(call).encode())
            sock.shutdown(socket.SHUT_WR)
            return b"return" in sock.recv(4096)
    return False


# ------------------------------------------------------------------------------------------------ another machine
@contextlib.contextmanager
def far_machine() -> Iterator[list[str]]:
    """A further namespace on a wire; words before a command, to run it there."""
    words = ["unshare", "-n", "sh", "-c", "ip link set lo up; echo; exec sleep 1000"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    there = ["nsenter", "-t", str(process.pid), "-n"]
    here = f"""link add far0 mtu 65520 type veth peer name far1 mtu 65520 netns {process.pid}
addr add {FAR_WIRE}/24 dev far0
link set far0 up
"""
    subprocess.run(["ip", "-batch", "-"], input=here, text=True, check=True)
    wire = f"addr add {FAR}/24 dev far1\nlink set far1 up\n"
    subprocess.run([*there, "ip", "-batch", "-"], input=wire, text=True, check=True)
    try:
        yield there
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def far_peer(name: str) -> Iterator[Peer]:
    """A network whose guest connects to the far machine, or the host itself."""
    if name in ("host", "loopback"):
        yield Peer(name, [], FAR if name == "host" else "127.0.0.1", None)
        return
    with network("ours" if name == "fast" else name, 1500) as peer:
        if name != "fast":
            yield Peer(name, peer.inside, FAR, peer.process)
            return
        path = f"/tmp/bench-fast-{os.getpid()}.sock"
        tool = [sys.executable, "-m", "tests.bench.network"]
        process = subprocess.Popen([*tool, "--supervise", path], cwd=TOP, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield Peer(name, [*peer.inside, *tool, "--reported", path], FAR, process)
        finally:
            process.kill()
            process.wait()
            os.unlink(path)


def supervise(path: str) -> None:
    """Fast sockets for every program that comes with a listener."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    if os.fork() == 0:
        ours.close()
        config = NetworkConfig("bench", "10.0.2.0/24", "10.0.2.2")
        run_fast_sockets(config, theirs, mmap.mmap(-1, FAST_SOCKETS_BYTES))
        os._exit(0)
    theirs.close()
    print(flush=True)
    number = 0
    while True:
        connection, _ = listener.accept()
        with connection:
            _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
            socket.send_fds(ours, [json.dumps({"type": "Watch", "watch": number}).encode()], descriptors)
            os.close(descriptors[0])
            number += 1


def reported(path: str, *command: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        fd = notify_connects()
        socket.send_fds(sock, [b"x"], [fd])
    os.close(fd)
    os.execvp(command[0], command)


def measure_far(seconds: int, peers: list[str]) -> None:
    with far_machine() as there, servers(there), servers([]):
        for label, words in (("out", ()), ("in", ("-R",))):
            for name in peers:
                with far_peer(name) as peer:
                    show(name, 1500, f"fast {label}", iperf(peer, "-t", str(seconds), *words))
        for kind in ("rr", "connect"):
            for name in peers:
                with far_peer(name) as peer:
                    show_client(peer, 1500, kind, seconds)


# ------------------------------------------------------------------------------------------------ measurements
def iperf(peer: Peer, *words: str) -> dict[str, float]:
    """{"out", "in": Gbit/s received, "cpu": seconds of the network for each gigabyte, "lost": percent}."""
    before = peer.cpu_seconds()
    command = [*peer.inside, "iperf3", "-J", "-c", peer.host, "-p", str(SERVER_PORT), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    # pasta listens in the guest a little after its device is there; a server may not be done with the test before
    if "unable to connect" in done.stdout or "busy running a test" in done.stdout:
        time.sleep(0.5)
        done = subprocess.run(command, capture_output=True, text=True)
    cpu = peer.cpu_seconds() - before
    report = json.loads(done.stdout)
    if "error" in report:
        print(f"{peer.name}: {report['error']}", file=sys.stderr)
    end = report.get("end", {})
    found: dict[str, float] = {}
    reverse = "-R" in words
    total = 0.0
    for key in ("sum_received", "sum_received_bidir_reverse", "sum"):
        part = end.get(key)
        if part is None or (key == "sum" and found):
            continue
        way = "in" if key.endswith("reverse") or reverse else "out"
        share = 1 - part.get("lost_percent", 0.0) / 100 if key == "sum" else 1
        found[way] = part["bits_per_second"] / 1e9 * share
        total += part["bytes"] * share
        if "-u" in words:
            found["lost"] = part.get("lost_percent", 0.0)
    if not found:
        return {"failed": 1.0}
    found["cpu"] = cpu / (total / 1e9) if total else float("inf")
    return found


def show(peer: str, mtu: int, what: str, found: dict[str, float]) -> None:
    values = "  ".join(f"{key} {value:9.2f}" for key, value in found.items())
    print(f"{mtu:6} {what:16} {peer:12} {values}", flush=True)


def measure(peer: Peer, mtu: int, only: list[str], seconds: int, flows: list[int]) -> None:
    timed = "-t", str(seconds)
    if "tcp" in only:
        for count in flows:
            for label, words in (("out", ()), ("in", ("-R",)), ("both", ("--bidir",))):
                show(peer.name, mtu, f"tcp {count:2} {label}", iperf(peer, "-P", str(count), *timed, *words))
    if "udp" in only:
        for size in (1400, 8192):
            for label, words in (("out", ()), ("in", ("-R",))):
                udp = iperf(peer, "-u", "-b", "0", "-l", str(size), *timed, *words)
                show(peer.name, mtu, f"udp {size} {label}", udp)
    for kind in ("rr", "connect"):
        if kind in only:
            show_client(peer, mtu, kind, seconds)
    if "published" in only and peer.process is not None and peer.published:
        server = subprocess.Popen(
            [*peer.inside, "iperf3", "-s", "-p", str(GUEST_PORT)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(0.3)
        through = Peer(peer.name, [], OUTSIDE, peer.process)
        for label, words in (("in", ()), ("out", ("-R",))):
            show(peer.name, mtu, f"published {label}", iperf(through, "-p", str(PUBLISHED_PORT), *timed, *words))
        server.kill()
        server.wait()


def show_client(peer: Peer, mtu: int, kind: str, seconds: int) -> None:
    before = peer.cpu_seconds()
    tool = [sys.executable, "-m", "tests.bench.network", "--client", kind, peer.host, str(ECHO_PORT)]
    done = subprocess.run([*peer.inside, *tool, str(seconds)], capture_output=True, text=True, cwd=TOP)
    if done.returncode:
        print(done.stderr.splitlines()[-1], file=sys.stderr)
    rate = float(done.stdout or 0)
    cpu = (peer.cpu_seconds() - before) / seconds
    show(peer.name, mtu, kind, {"a second": rate, "usec": 1e6 / rate if rate else 0.0, "cpu": cpu})


# ------------------------------------------------------------------------------------------------ request/response
def serve_echo() -> None:
    """Each connection: bytes back, one at a time."""
    listener = socket.create_server(("0.0.0.0", ECHO_PORT), backlog=512)

    def answer(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := sock.recv(4096):
                sock.send(data)

    while True:
        sock, _ = listener.accept()
        threading.Thread(target=answer, args=(sock,), daemon=True).start()


def client(kind: str, host: str, port: int, seconds: float) -> float:
    """Round trips of one byte on one connection, or connections (each with a round trip) one after the other: how many
    a second."""

    def connect() -> socket.socket:
        sock = socket.create_connection((host, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    count = 0
    end = time.monotonic() + seconds
    if kind == "rr":
        with connect() as sock:
            while time.monotonic() < end:
                sock.send(b"x")
                sock.recv(1)
                count += 1
    else:
        while time.monotonic() < end:
            with connect() as sock:
                sock.send(b"x")
                sock.recv(1)
            count += 1
    return count / seconds


def main() -> None:
    if sys.argv[1:2] == ["--client"]:
        print(client(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5])))
        return
    if sys.argv[1:2] == ["--echo"]:
        serve_echo()
    if sys.argv[1:2] == ["--supervise"]:
        supervise(sys.argv[2])
    if sys.argv[1:2] == ["--reported"]:
        reported(*sys.argv[2:])
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", default="ours,slirp4netns,pasta,pasta-splice,loopback")
    parser.add_argument("--mtu", default="1500,65520")
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--flows", default="1,4,16")
    parser.add_argument("--only", default="tcp,udp,rr,connect,published")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        os.execvp(
            "unshare", ["unshare", "-Urn", sys.executable, "-m", "tests.bench.network", *sys.argv[1:], "--inside"]
        )
    subprocess.run(["ip", "-batch", "-"], input=_HOST, text=True, check=True)
    if options.only == "fast":
        chosen = [name for name in FAR_PEERS if options.peers == parser.get_default("peers") or name in options.peers]
        measure_far(options.seconds, chosen)
        return
    flows = [int(count) for count in options.flows.split(",")]
    for mtu in map(int, options.mtu.split(",")):
        for what in options.only.split(","):
            for name in options.peers.split(","):  # each measurement with processes of its own: some peers die of one
                with servers(), network(name, mtu) as peer:
                    measure(peer, mtu, [what], options.seconds, flows)


@contextlib.contextmanager
def servers(there: Sequence[str] = ()) -> Iterator[None]:
    """iperf3 and the echo, on the host, or where these words lead."""
    quiet = subprocess.DEVNULL
    started = [
        subprocess.Popen([*there, "iperf3", "-s", "-p", str(SERVER_PORT)], stdout=quiet, stderr=quiet),
        subprocess.Popen([*there, sys.executable, "-m", "tests.bench.network", "--echo"], cwd=TOP),
    ]
    try:
        for port in (SERVER_PORT, ECHO_PORT):
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError), socket.create_connection((FAR if there else "127.0.0.1", port)):
                    break
        yield
    finally:
        for server in started:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
