"""A published port's client that uses the same port again while the guest still remembers the last connection; and what
client and server see when the network's process is killed."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from slirp.stack.tcp_flow import Flow
from slirp.testing import MemoryHost, PlainBuffers
from slirp.wire import tcp
from slirp.wire.tcp import Segment
from tests.slirp.addresses import OUTSIDE
from tests.slirp.lab import Lab


class Sent:
    """A guest that only listens."""

    def __init__(self) -> None:
        self.flags: list[int] = []

    def transmit(
        self,
        flags: int,
        sequence: int,
        acknowledgment: int,
        window: int,
        options: bytes,
        payload: bytes | memoryview,
        mss: int,
    ) -> bool:
        self.flags.append(flags)
        return True


def test_a_guest_that_still_knows_the_last_one_is_asked_again_at_once() -> None:
    sent = Sent()
    flow = Flow(sent, MemoryHost(), PlainBuffers(), 1460, 1000, 0.0)
    flow.connect(0.0)
    stale = Segment(1, 2, 77, 555, tcp.ACK, 1000, b"", memoryview(b""))
    flow.segment(stale, 0.001)
    assert sent.flags == [tcp.SYN, tcp.RST, tcp.SYN]
    flow.segment(stale, 0.002)
    assert sent.flags == [tcp.SYN, tcp.RST, tcp.SYN, tcp.RST]  # once: the two must not talk like this for ever


@pytest.mark.kernel
def test_the_same_port_again_and_again() -> None:
    lab = Lab()
    try:
        guest = lab.guest()
        server = guest.listen("0.0.0.0", 80)
        _, port = lab.publish(guest, 80, lab.host.listen("0.0.0.0"))
        with server:
            for _ in range(20):
                with lab.host.socket() as client:
                    client.settimeout(0.9)  # a SYN that was not understood would be sent again after a second
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    client.bind((OUTSIDE, 40000))
                    client.connect((OUTSIDE, port))
                    client.sendall(b"x")
                    served, _ = server.accept()
                    assert served.recv(1) == b"x"
                    served.close()  # first: TIME_WAIT is the guest's
                    assert client.recv(1) == b""
    finally:
        lab.close()


@pytest.mark.kernel
def test_the_death_of_the_network_does_not_look_like_an_end() -> None:
    lab = Lab()
    try:
        guest = lab.guest()
        _, port = lab.publish(guest, 80, lab.host.listen("0.0.0.0"))
        with (
            guest.listen("0.0.0.0", 80) as inside,
            lab.host.listen(OUTSIDE) as outside,
            lab.host.socket() as client,
            guest.connect(*outside.getsockname()[:2]),
        ):
            client.settimeout(10)
            client.connect((OUTSIDE, port))
            served, _ = inside.accept()
            server, _ = outside.accept()
            served.sendall(b"a part")
            assert client.recv(100) == b"a part"
            os.kill(lab.network_pid, signal.SIGKILL)
            for sock in (client, server):
                with sock, pytest.raises(ConnectionResetError):
                    sock.recv(100)
            served.close()
    finally:
        lab.close()
