"""What the router lets through, answers and refuses, between real kernels."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from slirp.wire import ethernet, icmp, ipv4, udp
from tests.slirp.lab import GATEWAY, OUTSIDE, RESET_ON_CLOSE, Guest, Lab

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab(resolvers=["127.0.0.1", "127.0.0.2"])
    yield made
    made.close()


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Guest:
    return lab.guest(names=("web", "web.lab"))


@pytest.fixture(scope="module")
def other(lab: Lab, guest: Guest) -> Guest:
    return lab.guest(names=("db", "store"))


def receive(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


# ------------------------------------------------------------------------------------------------ outgoing
def test_a_connection_to_the_outside(lab: Lab, guest: Guest) -> None:
    with lab.host.listen(OUTSIDE) as listener, guest.connect(*listener.getsockname()) as client:
        server, address = listener.accept()
        assert address[0] == OUTSIDE
        with server:
            server.sendall(b"hello")
            server.shutdown(socket.SHUT_WR)
            assert receive(client) == b"hello"
            client.sendall(b"thanks")
            client.shutdown(socket.SHUT_WR)
            assert receive(server) == b"thanks"


def test_a_closed_port_refuses(guest: Guest) -> None:
    with pytest.raises(ConnectionRefusedError):
        guest.connect(OUTSIDE, 9)


def test_no_route_is_said_at_once(guest: Guest) -> None:
    with pytest.raises(OSError) as raised:
        guest.connect("198.51.100.1", 80)
    assert raised.value.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)


def test_the_gateway_is_not_the_hosts_loopback(lab: Lab, guest: Guest) -> None:
    with lab.host.listen("127.0.0.1") as listener, pytest.raises(ConnectionRefusedError):
        guest.connect(GATEWAY, listener.getsockname()[1])
    with lab.host.listen("127.0.0.1", kind=socket.SOCK_DGRAM) as server, guest.socket(socket.SOCK_DGRAM) as client:
        client.connect((GATEWAY, server.getsockname()[1]))
        client.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.1.2.3", "224.0.0.1", "255.255.255.255"])
def test_forbidden_addresses_put_on_the_wire_go_nowhere(lab: Lab, guest: Guest, address: str) -> None:
    with lab.host.listen("0.0.0.0", kind=socket.SOCK_DGRAM) as server, guest.packet_socket() as wire:
        server.settimeout(0.2)
        source = socket.inet_aton(guest.address)
        data = udp.emit(source, socket.inet_aton(address), 5000, server.getsockname()[1], b"in")
        wire.send(_frame(lab, guest, source, socket.inet_aton(address), data))
        with pytest.raises(TimeoutError):
            server.recv(10)


def _frame(lab: Lab, guest: Guest, source: bytes, destination: bytes, data: bytes, to: str = "") -> bytes:
    mac = bytes.fromhex(guest.mac.replace(":", ""))
    target = bytes.fromhex(to.replace(":", "")) if to else bytes.fromhex("020000000001")
    head = ethernet.HEADER.pack(target, mac, ethernet.IPV4)
    return head + ipv4.emit_header(source, destination, ipv4.UDP, len(data)) + data


# ------------------------------------------------------------------------------------------------ spoofing
def test_a_guest_speaks_for_nobody_else(lab: Lab, guest: Guest, other: Guest) -> None:
    theirs, ours = socket.inet_aton(other.address), socket.inet_aton(guest.address)
    outside = socket.inet_aton(OUTSIDE)
    with (
        lab.host.listen(OUTSIDE, kind=socket.SOCK_DGRAM) as server,
        other.listen(other.address, kind=socket.SOCK_DGRAM) as neighbour,
        guest.packet_socket() as wire,
    ):
        server.settimeout(0.2)
        neighbour.settimeout(10)
        port, near = server.getsockname()[1], neighbour.getsockname()[1]
        wire.send(_frame(lab, guest, theirs, outside, udp.emit(theirs, outside, 5000, port, b"spoofed")))
        with pytest.raises(TimeoutError):
            server.recv(10)
        fake = socket.inet_aton("10.77.9.9")
        wire.send(_frame(lab, guest, fake, theirs, udp.emit(fake, theirs, 5000, near, b"spoofed"), other.mac))
        wire.send(_frame(lab, guest, ours, theirs, udp.emit(ours, theirs, 5000, near, b"honest"), other.mac))
        assert neighbour.recvfrom(10) == (b"honest", (guest.address, 5000))


def test_a_guest_cannot_take_an_address_by_arp(lab: Lab, guest: Guest, other: Guest) -> None:
    mac = bytes.fromhex(guest.mac.replace(":", ""))
    target = socket.inet_aton(other.address)
    with guest.packet_socket() as wire, other.packet_socket() as seen:
        for claimed in ("10.77.0.1", guest.address):
            packet = ethernet.ArpPacket(ethernet.REQUEST, mac, socket.inet_aton(claimed), bytes(6), target)
            wire.send(ethernet.HEADER.pack(ethernet.BROADCAST, mac, ethernet.ARP) + packet.emit())
        while True:
            frame = seen.recv(2000)
            packet_seen = ethernet.parse_arp(frame[14:]) if frame[12:14] == b"\x08\x06" else None
            if packet_seen is not None and packet_seen.sender_mac == mac:
                assert packet_seen.sender_address == socket.inet_aton(guest.address)
                return


def test_rubbish_on_the_wire_stops_nobody(lab: Lab, guest: Guest) -> None:
    mac = bytes.fromhex(guest.mac.replace(":", ""))
    gateway = bytes.fromhex("020000000001")
    source, outside = socket.inet_aton(guest.address), socket.inet_aton(OUTSIDE)
    with guest.packet_socket() as wire:
        for size in (0, 1, 19, 20, 27, 28, 60, 1400):
            for kind in (ethernet.IPV4, ethernet.ARP, 0x86DD, 0x1234):
                wire.send(ethernet.HEADER.pack(gateway, mac, kind) + os.urandom(size))
            for protocol in (ipv4.TCP, ipv4.UDP, ipv4.ICMP, 200):
                for fragment in (0, 1, ipv4.MORE_FRAGMENTS, 0x1FFF):
                    head = ipv4.emit_header(source, outside, protocol, size, 7, fragment)
                    wire.send(ethernet.HEADER.pack(gateway, mac, ethernet.IPV4) + head + os.urandom(size))
    test_a_connection_to_the_outside(lab, guest)


# ------------------------------------------------------------------------------------------------ between guests
def test_guests_reach_each_other(lab: Lab, guest: Guest, other: Guest) -> None:
    data = os.urandom(3 << 20)
    with other.listen(other.address) as listener, guest.connect(*listener.getsockname()) as client:
        server, address = listener.accept()
        assert address[0] == guest.address
        with server:
            client.settimeout(10)
            received = bytearray()
            sent = 0
            client.setblocking(False)
            while sent < len(data):
                try:
                    sent += client.send(data[sent : sent + 65536])
                except BlockingIOError:
                    received += server.recv(1 << 20)
            client.shutdown(socket.SHUT_WR)
            received += receive(server)
    assert bytes(received) == data


# ------------------------------------------------------------------------------------------------ datagrams, echo
def test_datagrams_keep_their_source_and_strangers_stay_out(lab: Lab, guest: Guest) -> None:
    with (
        lab.host.listen(OUTSIDE, kind=socket.SOCK_DGRAM) as server,
        lab.host.listen(OUTSIDE, kind=socket.SOCK_DGRAM) as sibling,
        lab.host.listen("127.0.0.1", kind=socket.SOCK_DGRAM) as stranger,
        guest.socket(socket.SOCK_DGRAM) as client,
    ):
        client.sendto(b"ask", server.getsockname())
        data, mapped = server.recvfrom(100)
        assert data == b"ask"
        stranger.sendto(b"stranger", ("127.0.0.1", mapped[1]))
        sibling.sendto(b"other port", mapped)
        server.sendto(b"answer", mapped)
        assert client.recvfrom(100) == (b"other port", sibling.getsockname())
        assert client.recvfrom(100) == (b"answer", server.getsockname())


def test_a_large_datagram_is_put_together_from_fragments(lab: Lab, guest: Guest) -> None:
    with (
        lab.host.listen(OUTSIDE, kind=socket.SOCK_DGRAM) as server,
        guest.socket(socket.SOCK_DGRAM) as client,
    ):
        data = os.urandom(40000)
        client.sendto(data, server.getsockname())
        got, mapped = server.recvfrom(65535)
        assert got == data
        server.sendto(data[::-1], mapped)
        assert client.recv(65535) == data[::-1]


@pytest.mark.parametrize("address", [GATEWAY, OUTSIDE])
def test_echo(guest: Guest, address: str) -> None:
    with guest.socket(socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as pinger:
        pinger.sendto(icmp.Message(icmp.ECHO, 0, 0, 3, b"there?").emit(), (address, 0))
        data, source = pinger.recvfrom(1000)
        answer = icmp.parse(memoryview(data))
        assert answer is not None
        assert (answer.kind, answer.sequence, answer.payload, source[0]) == (icmp.ECHO_REPLY, 3, b"there?", address)


# ------------------------------------------------------------------------------------------------ published ports
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


# ------------------------------------------------------------------------------------------------ guests come and go
def test_a_detached_guest_resets_its_connections(lab: Lab) -> None:
    passing = lab.guest()
    with lab.host.listen(OUTSIDE) as listener, passing.connect(*listener.getsockname()):
        server, _ = listener.accept()
        with server:
            lab.command([], type="Detach", endpoint_id=passing.address)
            with pytest.raises(ConnectionResetError):
                server.recv(1)


def test_a_device_that_has_gone_costs_nothing(lab: Lab, guest: Guest) -> None:
    passing = lab.guest()
    passing.close()  # its namespace, and with that the device
    lab.guests.remove(passing)
    os.close(passing.tap)
    test_a_connection_to_the_outside(lab, guest)
    assert struct.calcsize("i") == 4
