"""What a guest may not say for others, or to whom nothing leads, put on the wire as it is."""

from __future__ import annotations

import os
import socket

import pytest

from slirp.wire import ethernet, icmp, icmpv6, ip, ipv4, ipv6, ndp, udp
from tests.slirp.addresses import GATEWAY6, OUTSIDE, OUTSIDE6
from tests.slirp.lab import Guest, Lab, talk

pytestmark = pytest.mark.kernel


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
    talk(lab, guest, OUTSIDE)
