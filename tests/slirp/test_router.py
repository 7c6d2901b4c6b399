"""What the router lets through, answers and refuses, between real kernels."""

from __future__ import annotations

import concurrent.futures
import errno
import os
import socket
import struct
from pathlib import Path

import pytest

from slirp.host.batches import SOL_UDP, UDP_SEGMENT
from slirp.wire import icmp, icmpv6
from tests.slirp.addresses import GATEWAY, GATEWAY6, OUTSIDE, OUTSIDE6
from tests.slirp.lab import Guest, Lab, receive, talk

pytestmark = pytest.mark.kernel


# ------------------------------------------------------------------------------------------------ outgoing
@pytest.mark.parametrize("outside", [OUTSIDE, OUTSIDE6])
def test_a_connection_to_the_outside(lab: Lab, guest: Guest, outside: str) -> None:
    talk(lab, guest, outside)


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
    talk(lab, guest, OUTSIDE)
    assert struct.calcsize("i") == 4
