"""What a container that floods its network leaves to a neighbour there.

    python -m tests.bench.flood [--seconds 5]

As an ordinary user, with iperf3 on the machine; the containers are of the image `host`. The neighbour measures single
bytes there and back, and a transfer each way, to a server of the host: at rest, while two processes of another
container send to themselves (they take the same processor time, and nothing reaches the network), and while they send
to the network: small datagrams to the host, SYNs to an address nobody has, connections that a server of the host
answers, questions for names."""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator

from rootless.engine.etc_files import host_gateway

_NETWORK, _FLOODER, _NEIGHBOUR = "bench-flood", "bench-flood-a", "bench-flood-b"
_IPERF_PORT, _ECHO_PORT, _FLOOD_PORT = 28601, 28602, 28603
_DATAGRAMS = """
import socket, sys
s = socket.socket(type=socket.SOCK_DGRAM)
while True:
    try: s.sendto(b'x' * 64, (sys.argv[1], 9))
    except OSError: pass
"""
_SYNS = """
import socket, sys
while True:
    s = socket.socket(); s.setblocking(False); s.connect_ex((sys.argv[1], 9)); s.close()
"""
_CONNECTIONS = """
import socket, sys
while True:
    try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 1).close()
    except OSError: pass
"""
_QUESTIONS = """
import os, socket, sys
s = socket.socket(type=socket.SOCK_DGRAM)
while True:
    q = os.urandom(2) + bytes.fromhex('01000001000000000000') + b'\\x08' + os.urandom(4).hex().encode()
    try: s.sendto(q + b'\\x07invalid\\0\\0\\1\\0\\1', (sys.argv[1], 53))
    except OSError: pass
"""
_ECHO = """
import socket, sys, threading
def answer(sock):
    sock.setsockopt(6, 1, 1)
    while data := sock.recv(4096): sock.send(data)
listener = socket.create_server(('0.0.0.0', int(sys.argv[1])))
while True: threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()
"""
_ROUND_TRIPS = """
import socket, sys, time
s = socket.create_connection((sys.argv[1], int(sys.argv[2]))); s.setsockopt(6, 1, 1)
took = []
end = time.perf_counter() + float(sys.argv[3])
while (before := time.perf_counter()) < end:
    s.send(b'x'); s.recv(1); took.append(time.perf_counter() - before)
took.sort()
print(took[len(took) // 2] * 1e6, took[len(took) * 99 // 100] * 1e6)
"""


def rootless(*words: str, check: bool = True) -> str:
    done = subprocess.run(["rootless", *words], capture_output=True, text=True)
    if check and done.returncode:
        sys.exit(f"rootless {' '.join(words)}: {done.stderr}")
    return done.stdout


@contextlib.contextmanager
def containers() -> Iterator[None]:
    rootless("network", "create", _NETWORK)
    try:
        for name in (_FLOODER, _NEIGHBOUR):
            rootless("run", "-d", "--name", name, "--network", _NETWORK, "host", "sleep", "1000")
        yield
    finally:
        rootless("rm", "-f", _FLOODER, _NEIGHBOUR, check=False)
        rootless("network", "rm", _NETWORK, check=False)


@contextlib.contextmanager
def servers() -> Iterator[None]:
    quiet = subprocess.DEVNULL
    started = [
        subprocess.Popen(["iperf3", "-s", "-p", str(_IPERF_PORT)], stdout=quiet, stderr=quiet),
        subprocess.Popen([sys.executable, "-c", _ECHO, str(_ECHO_PORT)], stderr=quiet),
        subprocess.Popen([sys.executable, "-c", _ECHO, str(_FLOOD_PORT)], stderr=quiet),
    ]
    time.sleep(0.5)
    try:
        yield
    finally:
        for server in started:
            server.kill()
            server.wait()


def neighbour(host: str, seconds: int) -> str:
    inside = ("exec", _NEIGHBOUR)
    trips = rootless(*inside, "python3", "-c", _ROUND_TRIPS, host, str(_ECHO_PORT), str(seconds)).split()
    found = [f"{float(trips[0]):8.0f} µs, 99 % {float(trips[1]):8.0f} µs"]
    for words in ((), ("-R",)):
        iperf = ("iperf3", "-J", "-c", host, "-p", str(_IPERF_PORT), "-t", str(seconds), *words)
        text = rootless(*inside, *iperf, check=False)
        received = json.loads(text).get("end", {}).get("sum_received", {}).get("bits_per_second", 0.0)
        found.append(f"{'in' if words else 'out'} {received / 1e9:5.2f} Gbit/s")
    return "  ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=3)
    seconds = parser.parse_args().seconds
    host = host_gateway(False, "")
    with containers(), servers():
        gateway = json.loads(rootless("network", "inspect", _NETWORK))[0]["IPAM"]["Config"][0]["Gateway"]
        cases = [
            ("at rest", "", ""),
            ("busy with itself", _DATAGRAMS, "127.0.0.1"),
            ("datagrams", _DATAGRAMS, host),
            ("SYNs", _SYNS, "203.0.113.77"),
            ("connections", _CONNECTIONS, host),
            ("questions", _QUESTIONS, gateway),
        ]
        for label, code, target in cases:
            for _ in range(2 if code else 0):
                rootless("exec", "-d", _FLOODER, "python3", "-c", code, target, str(_FLOOD_PORT))
            time.sleep(0.5)
            print(f"{label:18} {neighbour(host, seconds)}", flush=True)
            rootless("restart", "-t", "0", _FLOODER)


if __name__ == "__main__":
    main()
