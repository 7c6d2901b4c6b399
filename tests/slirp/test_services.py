"""What the gateway does for its guests besides routing, between real kernels: names, leases, published ports."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from slirp.wire import dhcp, dns, ethernet, ipv4, udp
from tests.slirp.addresses import GATEWAY, GATEWAY6, OUTSIDE
from tests.slirp.lab import Guest, Lab

pytestmark = pytest.mark.kernel
DATAGRAM = socket.SOCK_DGRAM
ELSEWHERE = "127.0.0.3"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab(resolvers=["127.0.0.1", "127.0.0.2"])
    yield made
    made.close()


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Guest:
    return lab.guest(names=("web", "site"))


@pytest.fixture(scope="module")
def other(lab: Lab, guest: Guest) -> Guest:
    return lab.guest(names=("db", "store"))


def question(name: str, kind: int = dns.A) -> bytes:
    return os.urandom(2) + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0) + dns.emit_name(name) + struct.pack("!HH", kind, 1)


def answered(asked: bytes, *addresses: str) -> bytes:
    known = dns.question(asked)
    assert known is not None
    return dns.emit_answers(asked, known, [socket.inet_aton(address) for address in addresses], 60)


def over_udp(guest: Guest, asked: bytes, server: str = GATEWAY) -> bytes:
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with guest.socket(DATAGRAM, family=family) as client:
        client.sendto(asked, (server, 53))
        return client.recv(65535)


def framed(message: bytes) -> bytes:
    return struct.pack("!H", len(message)) + message


def read_framed(sock: socket.socket) -> bytes:
    length = struct.unpack("!H", sock.recv(2, socket.MSG_WAITALL))[0]
    return sock.recv(length, socket.MSG_WAITALL)


# ------------------------------------------------------------------------------------------------ names
@pytest.mark.parametrize("server", [GATEWAY, GATEWAY6])
def test_names_of_guests_over_udp(guest: Guest, other: Guest, server: str) -> None:
    for name in ("db", "STORE", "db.lab"):
        assert socket.inet_aton(other.address) in over_udp(guest, question(name), server)
    assert socket.inet_pton(socket.AF_INET6, other.address6) in over_udp(guest, question("db", dns.AAAA), server)


def test_names_and_others_questions_over_one_tcp_connection(lab: Lab, guest: Guest, other: Guest) -> None:
    own, foreign = question("db"), question("example.org")
    with lab.host.listen("127.0.0.1", 53) as resolver, guest.connect(GATEWAY, 53) as client:
        whole = framed(foreign) + framed(own)
        client.sendall(whole[:9])
        client.sendall(whole[9:])
        assert socket.inet_aton(other.address) in read_framed(client)  # ours is faster than theirs
        passed, _ = resolver.accept()
        with passed:
            assert read_framed(passed) == foreign
            passed.sendall(framed(answered(foreign, "198.51.100.7")))
            assert read_framed(client) == answered(foreign, "198.51.100.7")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


def test_a_resolver_that_is_down_is_followed_by_the_next(lab: Lab, guest: Guest) -> None:
    asked = question("example.org")
    with lab.host.listen("127.0.0.2", 53, DATAGRAM) as second, guest.socket(DATAGRAM) as client:
        client.sendto(asked, (GATEWAY, 53))
        got, address = second.recvfrom(1000)
        assert got == asked
        second.sendto(answered(asked, "198.51.100.8"), address)
        assert client.recv(1000) == answered(asked, "198.51.100.8")


def test_nobody_to_ask_is_said_at_once(guest: Guest) -> None:
    assert over_udp(guest, question("example.org"))[3] & 15 == dns.SERVER_FAILURE
    with guest.connect(GATEWAY, 53) as client:
        client.sendall(framed(question("example.org")))
        assert read_framed(client)[3] & 15 == dns.SERVER_FAILURE


def test_resolvers_and_names_of_one_guest_alone(lab: Lab, guest: Guest, other: Guest) -> None:
    lab.command(
        [],
        type="Names",
        endpoint_id=other.address,
        names=["db", "renamed"],
        private_names={"web": ["203.0.113.1"]},
        resolvers=[ELSEWHERE],
    )
    try:
        assert socket.inet_aton("203.0.113.1") in over_udp(other, question("web"))
        assert socket.inet_aton(guest.address) in over_udp(guest, question("web"))
        assert socket.inet_aton(other.address) in over_udp(guest, question("renamed"))
        asked = question("store")  # no longer its name
        with lab.host.listen(ELSEWHERE, 53, DATAGRAM) as resolver, other.socket(DATAGRAM) as client:
            client.sendto(asked, (GATEWAY, 53))
            assert resolver.recvfrom(1000)[0] == asked
    finally:
        lab.command([], type="Names", endpoint_id=other.address, names=["db", "store"])


def test_a_command_too_long_for_a_datagram(lab: Lab, other: Guest) -> None:
    names = {f"container-{number}.of.a.large.network": ["203.0.113.1", "203.0.113.2"] for number in range(3000)}
    command = {"type": "Names", "endpoint_id": other.address, "names": ["db", "store"], "private_names": names}
    memfd = os.memfd_create("command")
    os.write(memfd, json.dumps(command).encode())
    lab.command([memfd], type="Memfd")
    os.close(memfd)
    assert socket.inet_aton("203.0.113.2") in over_udp(other, question("container-2999.of.a.large.network"))
    lab.command([], type="Names", endpoint_id=other.address, names=["db", "store"])


def test_an_internal_network_asks_nobody_and_leads_nowhere() -> None:
    lab = Lab(internal=True, resolvers=["127.0.0.1"])
    try:
        inner = lab.guest(names=("one",))
        with lab.host.listen("127.0.0.1", 53, DATAGRAM) as resolver, lab.host.listen(OUTSIDE) as listener:
            assert socket.inet_aton(inner.address) in over_udp(inner, question("one"))
            assert over_udp(inner, question("example.org"))[3] & 15 == dns.SERVER_FAILURE
            resolver.settimeout(0.1)
            with pytest.raises(TimeoutError):
                resolver.recv(1)
            with pytest.raises(ConnectionRefusedError):
                inner.connect(*listener.getsockname())
    finally:
        lab.close()


def test_guests_that_are_not_to_meet() -> None:
    lab = Lab(guests_meet=False)
    try:
        one, two = lab.guest(), lab.guest()
        with two.listen(two.address) as listener, one.socket() as client, lab.host.listen(OUTSIDE) as outside:
            client.settimeout(0.3)
            with pytest.raises(OSError, match=r"timed out|No route"):
                client.connect(listener.getsockname())
            one.connect(*outside.getsockname()).close()
    finally:
        lab.close()


# ------------------------------------------------------------------------------------------------ leases
def all_frames(wire: socket.socket) -> Iterator[bytes]:
    """Until none comes for the socket's time-out."""
    try:
        while True:
            yield wire.recv(2000)
    except TimeoutError:
        return


def test_a_guest_without_an_address_gets_its_own(guest: Guest, other: Guest) -> None:
    mac = bytes.fromhex(guest.mac.replace(":", ""))
    asked = dhcp.Message(1, 77, 0, bytes(4), bytes(4), mac, {dhcp.KIND: bytes([dhcp.DISCOVER])}).emit()
    datagram = udp.emit(bytes(4), b"\xff" * 4, dhcp.CLIENT_PORT, dhcp.SERVER_PORT, asked)
    packet = ipv4.emit_header(bytes(4), b"\xff" * 4, ipv4.UDP, len(datagram)) + datagram
    with guest.packet_socket() as wire, other.packet_socket() as neighbour:
        neighbour.settimeout(0.1)
        wire.send(ethernet.HEADER.pack(b"\xff" * 6, mac, ethernet.IPV4) + packet)
        while True:
            frame = memoryview(wire.recv(2000))
            found = ipv4.parse(frame[14:]) if frame[12:14] == b"\x08\0" else None
            answer = udp.parse(found.payload) if found is not None and found.protocol == ipv4.UDP else None
            offer = dhcp.parse(answer.payload) if answer is not None else None
            if offer is not None and offer.operation == 2:
                break
        assert (offer.kind, offer.yours) == (dhcp.OFFER, socket.inet_aton(guest.address))
        assert not any(b"\x63\x82\x53\x63" in frame for frame in all_frames(neighbour))  # nobody else hears of it


def test_dhcpv6_tells_where_names_are(guest: Guest) -> None:
    with guest.socket(DATAGRAM, family=socket.AF_INET6) as client:
        client.bind(("::", dhcp.CLIENT_PORT6))
        asked = dhcp.emit6(dhcp.INFORMATION_REQUEST, b"abc", {dhcp.CLIENT_ID6: b"me"})
        client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, 2)  # lo is 1
        client.sendto(asked, ("ff02::1:2", dhcp.SERVER_PORT6))
        parsed = dhcp.parse6(client.recv(2000))
    assert parsed is not None
    kind, transaction, options = parsed
    assert (kind, transaction, options[dhcp.CLIENT_ID6]) == (dhcp.REPLY6, b"abc", b"me")
    assert options[dhcp.DNS6] == socket.inet_pton(socket.AF_INET6, GATEWAY6)


# ------------------------------------------------------------------------------------------------ published ports
@pytest.mark.parametrize("asked", ["127.0.0.1", "127.0.0.7", OUTSIDE])
def test_an_answer_leaves_from_the_address_that_was_asked(lab: Lab, guest: Guest, asked: str) -> None:
    server = guest.listen("0.0.0.0", 5353, DATAGRAM)
    _, port = lab.publish(guest, 5353, lab.host.listen("0.0.0.0", 0, DATAGRAM))
    with server, lab.host.socket(DATAGRAM) as client:
        client.connect((asked, port))  # takes datagrams from there alone
        client.send(b"question")
        got, seen = server.recvfrom(100)
        assert (got, seen[1]) == (b"question", client.getsockname()[1])
        assert seen[0] == (OUTSIDE if asked == OUTSIDE else GATEWAY)
        server.sendto(b"answer", seen)
        assert client.recv(100) == b"answer"
    lab.command([], type="Unpublish", publish_id="p")


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, DATAGRAM])
def test_a_published_port_is_also_the_gateways(lab: Lab, guest: Guest, other: Guest, kind: int) -> None:
    server = guest.listen("0.0.0.0", 8080, kind)
    _, port = lab.publish(guest, 8080, lab.host.listen("0.0.0.0", 0, kind))
    with server, other.socket(kind) as client:
        client.connect((GATEWAY, port))
        client.send(b"hello")
        taken = server.accept()[0] if kind == socket.SOCK_STREAM else server
        assert taken.recv(100) == b"hello"
        taken.close()
    lab.command([], type="Unpublish", publish_id="p")
    with other.socket(kind) as client, pytest.raises(ConnectionRefusedError):
        touch(client, port)


def touch(client: socket.socket, port: int) -> None:
    """A datagram is refused when the next one is asked for."""
    client.connect((GATEWAY, port))
    client.send(b"x")
    client.recv(1)
