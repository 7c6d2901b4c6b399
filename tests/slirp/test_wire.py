"""Every wire form: what is emitted is parsed again, and no bytes make a parser fail."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.wire import checksum, ethernet, icmp, icmpv6, ip, ipv4, ipv6, ndp, tcp, udp

addresses = st.binary(min_size=4, max_size=4)
ports = st.integers(0, 65535)


@given(st.binary(max_size=200), st.integers(0, 0xFFFF))
def test_the_checksum_is_rfc_1071s(data: bytes, initial: int) -> None:
    total = initial
    padded = data + b"\0" * (len(data) & 1)
    for position in range(0, len(padded), 2):
        total += padded[position] << 8 | padded[position + 1]
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    expected = ~total & 0xFFFF
    found = checksum.checksum(data, initial)
    assert found == expected or {found, expected} == {0, 0xFFFF}  # the two zeros of ones' complement


def test_a_known_ipv4_header() -> None:
    header = bytes.fromhex("45000073000040004011b861c0a80001c0a800c7")
    assert checksum.checksum(header) == 0
    assert checksum.checksum(header[:10] + b"\0\0" + header[12:]) == 0xB861


@given(addresses, addresses, st.integers(0, 255), st.binary(max_size=100), st.binary(max_size=20))
def test_ipv4(source: bytes, destination: bytes, protocol: int, payload: bytes, padding: bytes) -> None:
    packet = ipv4.parse(memoryview(ipv4.emit_header(source, destination, protocol, len(payload)) + payload + padding))
    assert packet is not None
    assert (packet.source, packet.destination, packet.protocol) == (source, destination, protocol)
    assert bytes(packet.payload) == payload
    assert not packet.is_fragment


addresses6 = st.binary(min_size=16, max_size=16)
extension = st.tuples(st.sampled_from([0, 60]), st.integers(0, 3))


@given(
    addresses6, addresses6, st.sampled_from([6, 17, 58, 99]), st.binary(max_size=99), st.lists(extension, max_size=3)
)
def test_ipv6(source: bytes, destination: bytes, protocol: int, payload: bytes, passed: list[tuple[int, int]]) -> None:
    following, headers = protocol, b""
    for kind, length in reversed(passed):
        headers = bytes((following, length)) + bytes(length * 8 + 6) + headers
        following = kind
    data = ipv6.emit_header(source, destination, following, len(headers) + len(payload), 7) + headers + payload
    packet = ipv6.parse(memoryview(data + b"padding"))
    assert packet is not None
    assert packet[:4] == (source, destination, protocol, 7)
    assert bytes(packet.payload) == payload
    assert not packet.is_fragment


@given(addresses6, addresses6, st.integers(0, 0x1FFF), st.booleans(), st.integers(0, 2**32 - 1), st.binary(max_size=99))
def test_ipv6_fragments(
    source: bytes, destination: bytes, offset: int, more: bool, identification: int, payload: bytes
) -> None:
    fragment = offset | (ip.MORE_FRAGMENTS if more else 0)
    made = ipv6.emit_fragment_header(17, identification, fragment) + payload
    packet = ipv6.parse(memoryview(ipv6.emit_header(source, destination, 44, len(made)) + made))
    assert packet is not None
    assert (packet.protocol, packet.identification, packet.fragment) == (17, identification, fragment)
    assert bytes(packet.payload) == payload


def test_a_routing_header_is_not_followed() -> None:
    routed = bytes((17, 2, 0, 1)) + bytes(20)
    assert ipv6.parse(memoryview(ipv6.emit_header(bytes(16), bytes(16), 43, len(routed)) + routed)) is None


@given(addresses6, addresses6, st.integers(0, 255), st.integers(0, 255), ports, ports, st.binary(max_size=60))
def test_icmpv6(
    source: bytes, destination: bytes, kind: int, code: int, identifier: int, sequence: int, payload: bytes
) -> None:
    message = icmp.Message(kind, code, identifier, sequence, payload)
    data = icmpv6.emit(source, destination, message)
    assert icmpv6.parse(source, destination, memoryview(data)) == message
    assert icmpv6.parse(source, destination, memoryview(data[:-1] + bytes((data[-1] ^ 1,)))) is None


@given(addresses6.filter(lambda address: address[0] != 0xFF), st.binary(min_size=6, max_size=6), st.booleans())
def test_neighbours(target: bytes, mac: bytes, router: bool) -> None:
    expected = ndp.Neighbour(target, mac)
    assert ndp.parse_neighbour(ndp.emit_solicitation(target, mac)) == expected
    assert ndp.parse_neighbour(ndp.emit_advertisement(target, mac, router=router, solicited=True)) == expected


@given(ports, ports, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 255), ports, st.binary())
def test_tcp(
    source: int, destination: int, sequence: int, acknowledgment: int, flags: int, window: int, payload: bytes
) -> None:
    options = tcp.emit_options(tcp.Options(1460, 7))
    header = tcp.emit_header(source, destination, sequence, acknowledgment, flags, window, options)
    segment = tcp.parse(memoryview(header + payload))
    assert segment is not None
    assert segment[:7] == (source, destination, sequence, acknowledgment, flags, window, options)
    assert bytes(segment.payload) == payload
    assert tcp.parse_options(segment.options) == tcp.Options(1460, 7)


@given(addresses, addresses, ports, ports, st.binary(max_size=300))
def test_udp(source: bytes, destination: bytes, source_port: int, destination_port: int, payload: bytes) -> None:
    data = udp.emit(source, destination, source_port, destination_port, payload)
    assert checksum.checksum(data, checksum.pseudo_sum(source, destination, 17, len(data))) == 0
    datagram = udp.parse(memoryview(data))
    assert datagram is not None
    assert (datagram.source_port, datagram.destination_port, bytes(datagram.payload)) == (
        source_port,
        destination_port,
        payload,
    )


@given(st.integers(0, 255), st.integers(0, 255), ports, ports, st.binary(max_size=60))
def test_icmp(kind: int, code: int, identifier: int, sequence: int, payload: bytes) -> None:
    message = icmp.Message(kind, code, identifier, sequence, payload)
    assert icmp.parse(memoryview(message.emit())) == message


@given(st.integers(0, 65535), *[st.binary(min_size=n, max_size=n) for n in (6, 4, 6, 4)])
def test_arp(operation: int, mac: bytes, address: bytes, other_mac: bytes, other: bytes) -> None:
    packet = ethernet.ArpPacket(operation, mac, address, other_mac, other)
    assert ethernet.parse_arp(packet.emit()) == packet


@given(st.binary(max_size=100))
def test_no_bytes_make_a_parser_fail(data: bytes) -> None:
    view = memoryview(data)
    ipv4.parse(view)
    ipv6.parse(view)
    ipv6.parse(memoryview(b"\x60\0\0\0" + len(data).to_bytes(2, "big") + data[:1] + bytes(33) + data))
    icmpv6.parse(bytes(16), bytes(16), view)
    for kind in range(133, 138):
        ndp.parse_neighbour(icmp.Message(kind, 0, 0, 0, data))
    segment = tcp.parse(view)
    if segment is not None:
        tcp.parse_options(segment.options)
    udp.parse(view)
    icmp.parse(view)
    ethernet.parse_arp(view)
    tcp.parse_options(data)
    assert len(tcp.parse_blocks(data)) <= 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (b"", tcp.Options(536, -1)),
        (b"\x02\x04\x05\xb4", tcp.Options(1460, -1)),
        (b"\x02\x04\x00\x01", tcp.Options(64, -1)),
        (b"\x01\x01\x03\x03\xff", tcp.Options(536, 14)),
        (b"\x02\x00\x05\xb4", tcp.Options(536, -1)),
        (b"\x02", tcp.Options(536, -1)),
        (b"\x08\x0a" + bytes(8) + b"\x02\x04\x02\x18", tcp.Options(536, -1)),
    ],
)
def test_options_of_every_kind(options: bytes, expected: tcp.Options) -> None:
    assert tcp.parse_options(options) == expected


def test_unreachable_quotes_the_header_and_eight_bytes() -> None:
    packet = ipv4.emit_header(socket.inet_aton("10.0.0.1"), socket.inet_aton("10.0.0.2"), 17, 100) + bytes(100)
    assert len(icmp.unreachable(icmp.PORT_UNREACHABLE, packet).payload) == 28


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), max_size=3))
def test_selective_acknowledgments(blocks: list[tuple[int, int]]) -> None:
    assert tcp.parse_blocks(tcp.emit_blocks(blocks)) == blocks
    assert tcp.parse_options(tcp.emit_options(tcp.Options(1460, 7, True))) == tcp.Options(1460, 7, True)
