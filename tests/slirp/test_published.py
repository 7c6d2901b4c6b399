"""Ports of the host that lead to a guest, between real kernels."""

from __future__ import annotations

import socket

import pytest

from tests.slirp.addresses import GATEWAY, GATEWAY6, OUTSIDE, OUTSIDE6
from tests.slirp.lab import RESET_ON_CLOSE, Guest, Lab, receive

pytestmark = pytest.mark.kernel


def test_a_published_port_keeps_the_clients_address(lab: Lab, guest: Guest) -> None:
    with guest.listen(guest.address) as listener:
        where = lab.publish(guest, listener.getsockname()[1], lab.host.listen("0.0.0.0"))
        for target, seen in ((OUTSIDE, OUTSIDE), ("127.0.0.1", GATEWAY)):
            with lab.host.connect(target, where[1]) as client:
                server, address = listener.accept()
                assert address == (seen, client.getsockname()[1])
                with server:
                    client.sendall(b"ping")
                    client.shutdown(socket.SHUT_WR)
                    assert receive(server) == b"ping"
                    server.sendall(b"pong")
                    server.shutdown(socket.SHUT_WR)
                    assert receive(client) == b"pong"
        lab.command([], type="Unpublish", publish_id="p")
        with pytest.raises(ConnectionRefusedError):
            lab.host.connect("127.0.0.1", where[1])


def test_a_published_port_over_ipv6(lab: Lab, guest: Guest) -> None:
    with guest.listen("::") as listener:
        where = lab.publish(guest, listener.getsockname()[1], lab.host.listen("::"))
        for target, seen in ((OUTSIDE6, OUTSIDE6), ("::1", GATEWAY6), (OUTSIDE, f"::ffff:{OUTSIDE}")):
            with lab.host.connect(target, where[1]) as client:
                server, address = listener.accept()
                with server:
                    assert address[:2] == (seen, client.getsockname()[1])
                    client.sendall(b"ping")
                    assert server.recv(10) == b"ping"
        lab.command([], type="Unpublish", publish_id="p")


def test_clients_of_two_loopback_addresses_with_one_port(lab: Lab, guest: Guest) -> None:
    with guest.listen(guest.address) as listener:
        where = lab.publish(guest, listener.getsockname()[1], lab.host.listen("0.0.0.0"))
        with lab.host.socket() as first, lab.host.socket() as second:
            first.bind(("127.0.0.5", 0))
            second.bind(("127.0.0.6", first.getsockname()[1]))
            for client in (first, second):
                client.connect(("127.0.0.1", where[1]))
                server, _ = listener.accept()
                with server:
                    client.sendall(b"x")
                    assert server.recv(1) == b"x"
        lab.command([], type="Unpublish", publish_id="p")


def test_nobody_listens_behind_a_published_port(lab: Lab, guest: Guest) -> None:
    where = lab.publish(guest, 9, lab.host.listen(OUTSIDE))
    with pytest.raises(ConnectionResetError), lab.host.connect(*where) as client:
        client.recv(1)
    lab.command([], type="Unpublish", publish_id="p")


def test_published_datagrams(lab: Lab, guest: Guest) -> None:
    with (
        guest.listen("0.0.0.0", kind=socket.SOCK_DGRAM) as server,
        lab.host.listen(OUTSIDE, kind=socket.SOCK_DGRAM) as client,
    ):
        where = lab.publish(guest, server.getsockname()[1], lab.host.listen("0.0.0.0", kind=socket.SOCK_DGRAM))
        client.sendto(b"ping", (OUTSIDE, where[1]))
        data, source = server.recvfrom(100)
        assert (data, source) == (b"ping", client.getsockname())
        server.sendto(b"pong", source)
        assert client.recvfrom(100) == (b"pong", (OUTSIDE, where[1]))
        lab.command([], type="Unpublish", publish_id="p")


def test_a_reset_of_the_guest_behind_a_published_port(lab: Lab, guest: Guest) -> None:
    with guest.listen(guest.address) as listener:
        where = lab.publish(guest, listener.getsockname()[1], lab.host.listen(OUTSIDE))
        with lab.host.connect(*where) as client:
            server, _ = listener.accept()
            client.sendall(b"x")
            assert server.recv(1) == b"x"
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            server.close()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        lab.command([], type="Unpublish", publish_id="p")
