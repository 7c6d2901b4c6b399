"""A real kernel behind a wire that loses, doubles, reorders and spoils: what arrives is what was sent.

python -m tests.slirp.test_bad_wire [MEGABYTES [SHARE …]]      moves more, and says how long that took"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import socket
import sys
import threading
import time

import pytest

from tests.slirp.lab import OUTSIDE, OUTSIDE6, Guest, Lab

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


def connect(guest: Guest, address: str, port: int) -> socket.socket:
    """The gateway may need to be looked for more than once."""
    for _ in range(10):
        try:
            return guest.connect(address, port)
        except OSError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
    raise AssertionError("the gateway is not found")


def both_ways(lab: Lab, guest: Guest, outside: str, down: int, up: int) -> tuple[float, float]:
    """Seconds for each."""
    with lab.host.listen(outside) as listener:
        client = connect(guest, *listener.getsockname()[:2])
        server, _ = listener.accept()
        with client, server:
            client.settimeout(600)
            server.settimeout(600)
            start = time.monotonic()
            move(server, client, down)
            middle = time.monotonic()
            move(client, server, up)
            return middle - start, time.monotonic() - middle


@pytest.mark.parametrize(
    ("share", "outside", "down", "up"), [(0.01, OUTSIDE, 2 << 20, 1 << 20), (0.03, OUTSIDE6, 500_000, 100_000)]
)
def test_what_arrives_is_what_was_sent(share: float, outside: str, down: int, up: int) -> None:
    lab = Lab()
    try:
        guest = lab.guest(faults=faults(share))
        both_ways(lab, guest, outside, down, up)
    finally:
        lab.close()


def main() -> None:
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for share in [float(text) for text in sys.argv[2:]] or [0.01]:
        lab = Lab()
        guest = lab.guest(faults=faults(share))
        down, up = both_ways(lab, guest, OUTSIDE, megabytes * 10**6, int(megabytes * 10**6 * (0.01 / share) ** 2))
        print(f"{share:.0%} of each: {megabytes} MB to the guest in {down:.1f} s, from it in {up:.1f} s", flush=True)
        lab.close()
    os._exit(0)


if __name__ == "__main__":
    main()
