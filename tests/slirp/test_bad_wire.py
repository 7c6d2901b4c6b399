"""A real kernel behind a wire that loses, doubles, reorders and spoils: what arrives is what was sent.

python -m tests.slirp.test_bad_wire [--megabytes 1000] [--up 1000] [--shares 0.01,0.05] [--receive-bytes 4096]

moves more, and says how long that took; with tiny windows at the receivers; or, --kernels, without us."""

from __future__ import annotations

import argparse
import errno
import hashlib
import os
import random
import socket
import threading
import time

import pytest

from tests.slirp.addresses import OUTSIDE, OUTSIDE6
from tests.slirp.lab import Lab, Place

pytestmark = pytest.mark.kernel
BLOCK = random.Random(3).randbytes(1 << 20)


def faults(share: float) -> dict[str, float]:
    return {"loss": share, "duplication": share, "reordering": share, "corruption": share}


def move(sender: socket.socket, receiver: socket.socket, count: int) -> None:
    """`count` bytes, compared by their digest; the sender ends its side."""
    sent, received = hashlib.sha256(), hashlib.sha256()

    def send() -> None:
        left = count
        while left:
            data = BLOCK[: min(left, len(BLOCK))]
            sender.sendall(data)
            sent.update(data)
            left -= len(data)
        sender.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    while data := receiver.recv(1 << 18):
        received.update(data)
    thread.join()
    assert received.digest() == sent.digest()


def connect(guest: Place, address: str, port: int) -> socket.socket:
    """The gateway may need to be looked for more than once."""
    for _ in range(10):
        try:
            return guest.connect(address, port)
        except OSError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
    raise AssertionError("the gateway is not found")


def both_ways(client: socket.socket, server: socket.socket, down: int, up: int) -> tuple[float, float]:
    """Seconds for each."""
    with client, server:
        client.settimeout(900)
        server.settimeout(900)
        start = time.monotonic()
        move(server, client, down)
        middle = time.monotonic()
        move(client, server, up)
        return middle - start, time.monotonic() - middle


def connected(guest: Place, server: Place, address: str, receive_bytes: int = 0) -> tuple[socket.socket, socket.socket]:
    """Both ends; with `receive_bytes` of buffer at each."""
    for place in (guest, server) if receive_bytes else ():
        place.ask(
            do="write", path="/proc/sys/net/ipv4/tcp_rmem", text=f"{receive_bytes} {receive_bytes} {receive_bytes}"
        )
    with server.listen(address) as listener:
        client = connect(guest, *listener.getsockname()[:2])
        accepted, _ = listener.accept()
        return client, accepted


@pytest.mark.parametrize(
    ("share", "outside", "down", "up"), [(0.01, OUTSIDE, 2 << 20, 1 << 20), (0.03, OUTSIDE6, 500_000, 100_000)]
)
def test_what_arrives_is_what_was_sent(share: float, outside: str, down: int, up: int) -> None:
    lab = Lab()
    try:
        guest = lab.guest(faults=faults(share))
        both_ways(*connected(guest, lab.host, outside), down, up)
    finally:
        lab.close()


def test_tiny_windows_lose_nothing_either() -> None:
    lab = Lab()
    try:
        guest = lab.guest(faults=faults(0.01))
        both_ways(*connected(guest, lab.host, OUTSIDE, receive_bytes=2304), 200_000, 200_000)
    finally:
        lab.close()


def test_two_kernels_alone_and_their_lab_ends() -> None:
    lab = Lab()
    guest, server, address = lab.kernels(faults(0.01))
    both_ways(*connected(guest, server, address), 100_000, 100_000)
    lab.close()
    guest.close()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=float, default=1000, help="to the guest")
    parser.add_argument("--up", type=float, default=None, help="megabytes from it; as many by default")
    parser.add_argument("--shares", default="0.01", help="of each fault")
    parser.add_argument(
        "--receive-bytes", type=int, default=0, help="of both receivers' buffers, the kernel's otherwise"
    )
    parser.add_argument("--kernels", action="store_true", help="two kernels, and no network of ours")
    options = parser.parse_args()
    down = int(options.megabytes * 1e6)
    up = down if options.up is None else int(options.up * 1e6)
    for share in map(float, options.shares.split(",")):
        lab = Lab()
        if options.kernels:
            guest, server, address = lab.kernels(faults(share))
        else:
            guest, server, address = lab.guest(faults=faults(share)), lab.host, OUTSIDE
        to, of = both_ways(*connected(guest, server, address, options.receive_bytes), down, up)
        print(
            f"{share:.0%} of each: {down / 1e6:g} MB to the guest in {to:.1f} s ({down / to / 1e6:.3g} MB/s), "
            f"{up / 1e6:g} MB from it in {of:.1f} s ({up / of / 1e6:.3g} MB/s)",
            flush=True,
        )
        lab.close()
    os._exit(0)


if __name__ == "__main__":
    main()
