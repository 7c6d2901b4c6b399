"""What the router lets through, answers and refuses, between real kernels."""

from __future__ import annotations

import concurrent.futures
import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from slirp.host.batches import SOL_UDP, UDP_SEGMENT
from slirp.wire import ethernet, icmp, icmpv6, ip, ipv4, ipv6, ndp, udp
from tests.slirp.lab import GATEWAY, GATEWAY6, OUTSIDE, OUTSIDE6, RESET_ON_CLOSE, Guest, Lab

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab(resolvers=["127.0.0.1", "127.0.0.2"])
    yield made
    made.close()


@pytest.fixture(scope="module", params=["tap", "veth"])
def guest(request: pytest.FixtureRequest, lab: Lab) -> Guest:
    return lab.guest(names=("web", "web.lab"), veth=request.param == "veth")


@pytest.fixture(scope="module")
def other(lab: Lab, guest: Guest) -> Guest:
    return lab.guest(names=("db", "store"))


def receive(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


# ------------------------------------------------------------------------------------------------ outgoing
@pytest.mark.parametrize("outside", [OUTSIDE, OUTSIDE6])
def test_a_connection_to_the_outside(lab: Lab, guest: Guest, outside: str) -> None:
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


@pytest.mark.parametrize("outside", [OUTSIDE, OUTSIDE6])
def test_bulk_both_ways(lab: Lab, guest: Guest, outside: str) -> None:
    down, up = os.urandom(8 << 20), os.urandom(8 << 20)
    with lab.host.listen(outside) as listener, guest.connect(*listener.getsockname()[:2]) as client:
        server, _ = listener.accept()
        with server, concurrent.futures.ThreadPoolExecutor() as pool:

            def send(sock: socket.socket, data: bytes) -> None:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)

            done = [pool.submit(send, client, up), pool.submit(send, server, down)]
            results = [pool.submit(receive, sock) for sock in (client, server)]
            assert [result.result(60) for result in results] == [down, up]
            assert [one.result() for one in done] == [None, None]


@pytest.mark.parametrize("outside", [OUTSIDE, OUTSIDE6])
def test_a_closed_port_refuses(guest: Guest, outside: str) -> None:
    with pytest.raises(ConnectionRefusedError):
        guest.connect(outside, 9)


@pytest.mark.parametrize("address", ["198.51.100.1", "2001:db8:1::1"])
def test_no_route_is_said_at_once(guest: Guest, address: str) -> None:
    with pytest.raises(OSError) as raised:
        guest.connect(address, 80)
    assert raised.value.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)


@pytest.mark.parametrize(("loopback", "gateway"), [("127.0.0.1", GATEWAY), ("::1", GATEWAY6)])
def test_the_gateway_is_not_the_hosts_loopback(lab: Lab, guest: Guest, loopback: str, gateway: str) -> None:
    with lab.host.listen(loopback) as listener, pytest.raises(ConnectionRefusedError):
        guest.connect(gateway, listener.getsockname()[1])
    family = socket.AF_INET6 if ":" in gateway else socket.AF_INET
    with (
        lab.host.listen(loopback, kind=socket.SOCK_DGRAM) as server,
        guest.socket(socket.SOCK_DGRAM, family=family) as client,
    ):
        client.connect((gateway, server.getsockname()[1]))
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


def _icmp6(lab: Lab, guest: Guest, destination: str, message: icmp.Message, to: str) -> bytes:
    source, target = (socket.inet_pton(socket.AF_INET6, text) for text in (guest.address6, destination))
    payload = icmpv6.emit(source, target, message)
    head = ethernet.HEADER.pack(_mac(to), _mac(guest.mac), ethernet.IPV6)
    return head + ipv6.emit_header(source, target, ip.ICMPV6, len(payload), ndp.HOPS) + payload


def _first_piece(source: bytes, destination: bytes, protocol: int, payload: bytes) -> bytes:
    """Of an IPv6 packet that has more of them."""
    extension = ipv6.emit_fragment_header(protocol, 77, ip.MORE_FRAGMENTS)
    return ipv6.emit_header(source, destination, ipv6.FRAGMENT, 8 + len(payload), ndp.HOPS) + extension + payload


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def test_no_guest_is_a_router_or_another_neighbour(lab: Lab, guest: Guest, other: Guest) -> None:
    prefix = socket.inet_pton(socket.AF_INET6, "2001:db8:bad::")
    theirs = socket.inet_pton(socket.AF_INET6, GATEWAY6)
    ours = socket.inet_pton(socket.AF_INET6, guest.address6)
    rogue = ndp.emit_router_advertisement(_mac(guest.mac), 1500, prefix, 64, autonomous=True)
    stolen = ndp.emit_advertisement(theirs, _mac(guest.mac), router=True, solicited=True)
    honest = ndp.emit_advertisement(ours, _mac(guest.mac), router=False, solicited=True)
    with guest.packet_socket() as wire, other.packet_socket() as seen:
        head = ethernet.HEADER.pack(_mac(other.mac), _mac(guest.mac), ethernet.IPV6)
        target = socket.inet_pton(socket.AF_INET6, other.address6)
        hidden = bytes([ip.ICMPV6, 0]) + bytes(6)  # destination options, and the message in a later piece
        for protocol, piece in ((ip.ICMPV6, rogue.emit()[:16]), (ip.ICMPV6, b""), (60, hidden)):
            wire.send(head + _first_piece(ours, target, protocol, piece))
        for message in (rogue, stolen, honest):
            wire.send(_icmp6(lab, guest, other.address6, message, other.mac))
        while True:
            frame = memoryview(seen.recv(2000))
            packet = ipv6.parse(frame[14:]) if frame[12:14] == b"\x86\xdd" else None
            assert packet is None or not packet.is_fragment
            if packet is not None and packet.source == ours and packet.payload[0] in (134, 136):
                message_seen = icmpv6.parse(packet.source, packet.destination, packet.payload)
                assert message_seen is not None
                assert ndp.parse_neighbour(message_seen) == ndp.Neighbour(ours, _mac(guest.mac))
                return


def test_a_router_advertises_itself_when_asked(lab: Lab, guest: Guest) -> None:
    with guest.packet_socket() as wire:
        solicitation = icmp.Message(ndp.ROUTER_SOLICITATION, 0, 0, 0, b"")
        wire.send(_icmp6(lab, guest, "ff02::2", solicitation, "33:33:00:00:00:02"))
        while True:
            frame = memoryview(wire.recv(2000))
            packet = ipv6.parse(frame[14:]) if frame[12:14] == b"\x86\xdd" else None
            if packet is not None and packet.payload[0] == ndp.ROUTER_ADVERTISEMENT:
                assert packet.source == ndp.link_local(bytes.fromhex("020000000001"))
                assert packet.ttl == ndp.HOPS
                assert socket.inet_pton(socket.AF_INET6, "fd00:77::") in bytes(packet.payload)
                return


def test_rubbish_on_the_wire_stops_nobody(lab: Lab, guest: Guest) -> None:
    mac = bytes.fromhex(guest.mac.replace(":", ""))
    gateway = bytes.fromhex("020000000001")
    source, outside = socket.inet_aton(guest.address), socket.inet_aton(OUTSIDE)
    with guest.packet_socket() as wire:
        own6, outside6 = socket.inet_pton(socket.AF_INET6, guest.address6), socket.inet_pton(socket.AF_INET6, OUTSIDE6)
        for size in (0, 1, 19, 20, 27, 28, 60, 1400):
            for kind in (ethernet.IPV4, ethernet.ARP, 0x86DD, 0x1234):
                wire.send(ethernet.HEADER.pack(gateway, mac, kind) + os.urandom(size))
            for protocol in (ipv4.TCP, ipv4.UDP, ipv4.ICMP, 200):
                for fragment in (0, 1, ipv4.MORE_FRAGMENTS, 0x1FFF):
                    head = ipv4.emit_header(source, outside, protocol, size, 7, fragment)
                    wire.send(ethernet.HEADER.pack(gateway, mac, ethernet.IPV4) + head + os.urandom(size))
            for protocol in (0, 6, 17, 43, 44, 58, 59, 60, 200):
                head = ipv6.emit_header(own6, outside6, protocol, size)
                wire.send(ethernet.HEADER.pack(gateway, mac, ethernet.IPV6) + head + os.urandom(size))
    test_a_connection_to_the_outside(lab, guest, OUTSIDE)


# ------------------------------------------------------------------------------------------------ between guests
@pytest.mark.parametrize("version", [4, 6])
def test_guests_reach_each_other(lab: Lab, guest: Guest, other: Guest, version: int) -> None:
    data = os.urandom(3 << 20)
    where, seen = (other.address, guest.address) if version == 4 else (other.address6, guest.address6)
    with other.listen(where) as listener, guest.connect(*listener.getsockname()[:2]) as client:
        server, address = listener.accept()
        assert address[0] == seen
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


@pytest.mark.parametrize("outside", [OUTSIDE, OUTSIDE6])
def test_a_large_datagram_is_put_together_from_fragments(lab: Lab, guest: Guest, outside: str) -> None:
    with (
        lab.host.listen(outside, kind=socket.SOCK_DGRAM) as server,
        guest.socket(socket.SOCK_DGRAM, family=server.family) as client,
    ):
        data = os.urandom(40000)
        client.sendto(data, server.getsockname())
        got, mapped = server.recvfrom(65535)
        assert got == data
        server.sendto(data[::-1], mapped)
        assert client.recv(65535) == data[::-1]


@pytest.mark.parametrize("outside", [OUTSIDE, OUTSIDE6])
def test_many_datagrams_at_once_stay_themselves(lab: Lab, guest: Guest, outside: str) -> None:
    sizes = [1000] * 30 + [10, 1000, 1000, 1200, 0, 1200, 7]
    with (
        lab.host.listen(outside, kind=socket.SOCK_DGRAM) as server,
        guest.socket(socket.SOCK_DGRAM, family=server.family) as client,
    ):
        sent = [os.urandom(size) for size in sizes]
        segmented = b"".join(sent[:31])
        target = server.getsockname()
        client.sendmsg([segmented], [(SOL_UDP, UDP_SEGMENT, struct.pack("H", 1000))], 0, target)  # the guest's own USO
        for data in sent[31:]:
            client.sendto(data, target)
        received = []
        for _ in sent:
            data, mapped = server.recvfrom(65535)
            received.append(data)
        assert received == sent
        for data in sent:
            server.sendto(data, mapped)
        assert [client.recv(65535) for _ in sent] == sent


@pytest.mark.parametrize("outside", [OUTSIDE, OUTSIDE6])
def test_a_datagram_to_a_closed_port_is_refused(guest: Guest, outside: str) -> None:
    family = socket.AF_INET6 if ":" in outside else socket.AF_INET
    with guest.socket(socket.SOCK_DGRAM, family=family) as client:
        client.connect((outside, 9))
        client.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)


@pytest.mark.parametrize("address", [GATEWAY6, OUTSIDE6])
def test_echo_over_ipv6(guest: Guest, address: str) -> None:
    with guest.socket(socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6, socket.AF_INET6) as pinger:
        pinger.sendto(icmp.Message(icmpv6.ECHO, 0, 0, 3, b"there?").emit(), (address, 0))
        data, source = pinger.recvfrom(1000)
        answer = icmp.parse(memoryview(data), check=False)
        assert answer is not None
        assert (answer.kind, answer.sequence, answer.payload, source[0]) == (icmpv6.ECHO_REPLY, 3, b"there?", address)


def test_a_large_echo_of_a_neighbour_over_ipv6(guest: Guest, other: Guest) -> None:
    sent = os.urandom(4000)  # pieces both ways
    with guest.socket(socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6, socket.AF_INET6) as pinger:
        pinger.sendto(icmp.Message(icmpv6.ECHO, 0, 0, 3, sent).emit(), (other.address6, 0))
        answer = icmp.parse(memoryview(pinger.recv(5000)), check=False)
    assert answer is not None
    assert (answer.kind, answer.payload) == (icmpv6.ECHO_REPLY, sent)


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


# ------------------------------------------------------------------------------------------------ guests come and go
def test_the_network_has_given_up_what_it_does_not_need(lab: Lab, guest: Guest) -> None:
    assert lab.command([], type="Ping")["unconfined"] == []
    process = Path(f"/proc/{lab.network_pid}")
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    mounts = [line.split()[4] for line in (process / "mountinfo").read_text().splitlines()]
    assert sorted(mounts) == ["/", os.path.dirname(os.path.realpath("/etc/resolv.conf"))]


def test_a_detached_guest_resets_its_connections(lab: Lab) -> None:
    passing = lab.guest()
    with lab.host.listen(OUTSIDE) as listener, passing.connect(*listener.getsockname()):
        server, _ = listener.accept()
        with server:
            lab.command([], type="Detach", endpoint_id=passing.address)
            with pytest.raises(ConnectionResetError):
                server.recv(1)


@pytest.mark.parametrize("veth", [False, True])
def test_a_guest_that_has_gone_leaves_no_descriptor(lab: Lab, veth: bool) -> None:
    descriptors = Path(f"/proc/{lab.network_pid}/fd")
    before = len(list(descriptors.iterdir()))
    passing = lab.guest(veth=veth)
    lab.command([], type="Detach", endpoint_id=passing.address)
    assert len(list(descriptors.iterdir())) == before


def test_a_device_that_has_gone_costs_nothing(lab: Lab, guest: Guest) -> None:
    passing = lab.guest()
    passing.close()  # its namespace, and with that the device
    lab.guests.remove(passing)
    os.close(passing.tap)
    test_a_connection_to_the_outside(lab, guest, OUTSIDE)
    assert struct.calcsize("i") == 4
