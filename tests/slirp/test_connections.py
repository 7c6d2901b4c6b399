"""A connection's socket on the host, with segments of the guest made by hand."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from slirp.host import tcp as tcp_module
from slirp.host.endpoint import GATEWAY_MAC, Endpoint
from slirp.host.poller import Poller, Sockets
from slirp.host.tcp import ACK_SECONDS, REPEAT_SECONDS, Connections
from slirp.stack import tcp_flow
from slirp.stack.recovery import NEVER
from slirp.wire import ethernet, ipv4, tcp, virtio
from slirp.wire.checksum import checksum, pseudo_sum

MAC = bytes.fromhex("02420a4d0002")
GUEST, REMOTE = socket.inet_aton("10.77.0.2"), socket.inet_aton("192.0.2.1")
GUEST_PORT, REMOTE_PORT = 4000, 80


class Hand:
    """A guest that is the test, on a pipe; and the connection's peer on the host."""

    def __init__(self, listener: socket.socket) -> None:
        # a datagram socket keeps frames apart, as a TAP does
        self.wire, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.wire.settimeout(5)
        self.poller = Poller()
        self.connections = Connections(self.poller, lambda endpoint, address, port: listener.getsockname())
        sockets = Sockets(self.poller)
        self.endpoint = Endpoint("guest", device.detach(), sockets, sockets, MAC, GUEST, 1500, [])
        self.sequence, self.acknowledgment = 1000, 0
        self.guest_port = GUEST_PORT

    def send(self, flags: int, payload: bytes = b"", *, whole_checksum: bool = True, flush: bool = True) -> bool:
        """Whether the shortcut knew it. Without `flush` more of the same batch follows."""
        plain = (
            tcp.emit_header(self.guest_port, REMOTE_PORT, self.sequence, self.acknowledgment, flags, 65535) + payload
        )
        head = virtio.PLAIN if whole_checksum else virtio.partial(34, 16)
        if whole_checksum:
            value = checksum(plain, pseudo_sum(GUEST, REMOTE, ipv4.TCP, len(plain)))
            plain = plain[:16] + struct.pack("!H", value) + plain[18:]
        header = ipv4.emit_header(GUEST, REMOTE, ipv4.TCP, len(plain))
        frame = bytearray(head + ethernet.HEADER.pack(GATEWAY_MAC, MAC, ethernet.IPV4) + header + plain)
        self.sequence += len(payload) + bool(flags & (tcp.SYN | tcp.FIN))
        known = self.connections.known(self.endpoint, frame, memoryview(frame), len(frame))
        if not known:
            packet = ipv4.parse(memoryview(frame)[26:])
            assert packet is not None
            self.connections.packet(self.endpoint, packet, not whole_checksum)
        if flush:
            self.connections.flush()
        return known

    def receive(self) -> tcp.Segment:
        packet = ipv4.parse(memoryview(self.wire.recv(70000))[26:])
        assert packet is not None
        segment = tcp.parse(packet.payload)
        assert segment is not None
        length = len(segment.payload) + bool(segment.flags & (tcp.SYN | tcp.FIN))
        self.acknowledgment = (segment.sequence + length) & 0xFFFFFFFF
        return segment

    def open(self) -> None:
        self.send(tcp.SYN)
        self.poller.run_once(5)
        assert self.receive().flags == tcp.SYN | tcp.ACK
        self.send(tcp.ACK)

    @property
    def states(self) -> list[int]:
        return [connection.flow.state for connection in self.connections._by_key.values()]

    def close(self) -> None:
        self.connections.forget(self.endpoint)
        os.close(self.endpoint.tap)
        self.wire.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(5)
        yield made


@pytest.fixture
def hand(listener: socket.socket) -> Iterator[Hand]:
    made = Hand(listener)
    made.open()
    yield made
    made.close()


def test_what_the_guest_has_not_acknowledged_survives_the_end_of_both_sides(
    hand: Hand, listener: socket.socket
) -> None:
    server, _ = listener.accept()
    with server:
        server.sendall(b"last words")
        server.shutdown(socket.SHUT_WR)
        hand.poller.run_once(5)
        assert bytes(hand.receive().payload) == b"last words"
        hand.poller.run_once(5)
        assert hand.receive().flags & tcp.FIN
        hand.acknowledgment -= len(b"last words") + 1  # it is on its way to the guest, who ends meanwhile
        hand.send(tcp.FIN | tcp.ACK)
        assert server.recv(1) == b""
        start = time.monotonic()
        for _ in range(3):  # the socket has nothing to report any more
            hand.poller.run_once(0.05)
        assert time.monotonic() - start > 0.1
        assert hand.states == [tcp_flow.OPEN]
        hand.acknowledgment += len(b"last words") + 1
        hand.send(tcp.ACK)
        assert hand.states == [tcp_flow.LINGERING]


def test_the_shortcut_takes_segments_of_connections_it_knows(hand: Hand, listener: socket.socket) -> None:
    server, _ = listener.accept()
    with server:
        assert hand.send(tcp.ACK | tcp.PSH, b"quick", whole_checksum=False)
        assert not hand.send(tcp.ACK | tcp.PSH, b"checked", whole_checksum=True)
        assert server.recv(5) == b"quick"
        assert server.recv(7) == b"checked"


def test_a_small_piece_is_acknowledged_by_its_answer_or_soon_after(hand: Hand, listener: socket.socket) -> None:
    server, _ = listener.accept()
    with server:
        hand.send(tcp.ACK | tcp.PSH, b"question")
        assert hand.connections.due <= time.monotonic() + ACK_SECONDS
        server.sendall(b"answer")
        hand.poller.run_once(5)
        answer = hand.receive()
        assert (bytes(answer.payload), answer.acknowledgment) == (b"answer", hand.sequence)
        hand.connections.act(time.monotonic() + ACK_SECONDS)
        hand.send(tcp.ACK | tcp.PSH, b"another")
        hand.connections.act(time.monotonic() + ACK_SECONDS)
        answer = hand.receive()
        assert (bytes(answer.payload), answer.acknowledgment) == (b"", hand.sequence)
        assert hand.connections.due > time.monotonic() + ACK_SECONDS


def test_what_shows_losses_is_acknowledged_again_and_again_while_nothing_comes(
    hand: Hand, listener: socket.socket
) -> None:
    server, _ = listener.accept()
    with server:
        hand.sequence += 1
        hand.send(tcp.ACK | tcp.PSH, b"after a hole", whole_checksum=False)
        hand.sequence -= 1 + len(b"after a hole")
        said = []
        while hand.connections._acks_due != NEVER:
            said.append((hand.receive().acknowledgment, hand.connections._acks_due))
            hand.connections.act(hand.connections._acks_due)
        said.append((hand.receive().acknowledgment, NEVER))
        assert [acknowledgment for acknowledgment, _ in said] == [hand.sequence] * (1 + tcp_flow.REPEATS)
        waits = [after - before for (_, before), (_, after) in itertools.pairwise(said[:-1])]
        assert waits == pytest.approx([REPEAT_SECONDS * 2**n for n in range(1, tcp_flow.REPEATS)])


def test_what_comes_meanwhile_is_acknowledged_as_ever(hand: Hand, listener: socket.socket) -> None:
    server, _ = listener.accept()
    with server:
        hand.sequence += 1
        hand.send(tcp.ACK | tcp.PSH, b"b", whole_checksum=False)
        hand.receive()
        hand.sequence -= 2
        hand.send(tcp.ACK | tcp.PSH, b"a", whole_checksum=False)  # it fills the hole
        assert hand.receive().acknowledgment == hand.sequence + 1
        hand.sequence += 1
        hand.send(tcp.ACK | tcp.PSH, b"c", whole_checksum=False)
        assert hand.connections.due <= time.monotonic() + ACK_SECONDS
        hand.connections.act(hand.connections._acks_due)
        assert hand.receive().acknowledgment == hand.sequence
        assert hand.connections._acks_due == NEVER
        assert server.recv(10) == b"abc"


def test_an_answer_leaves_the_next_question_all_its_time(hand: Hand, listener: socket.socket) -> None:
    """It carries the acknowledgment of one; the next may wait for its own answer as long again."""
    server, _ = listener.accept()
    with server:
        hand.send(tcp.ACK | tcp.PSH, b"question", whole_checksum=False)
        first = hand.connections.due
        server.sendall(b"answer")
        hand.poller.run_once(5)
        assert bytes(hand.receive().payload) == b"answer"
        hand.send(tcp.ACK | tcp.PSH, b"another", whole_checksum=False)
        hand.connections.act(first)
        hand.wire.setblocking(False)
        with pytest.raises(BlockingIOError):
            hand.receive()
        assert first < hand.connections.due
        hand.connections.act(time.monotonic() + ACK_SECONDS)
        assert hand.receive().acknowledgment == hand.sequence


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[tcp.Segment]:
    """What flows were told of."""
    found: list[tcp.Segment] = []
    plain = tcp_flow.Flow.segment

    def segment(self: tcp_flow.Flow, segment: tcp.Segment, now: float) -> None:
        found.append(segment)
        plain(self, segment, now)

    monkeypatch.setattr(tcp_flow.Flow, "segment", segment)
    return found


def test_what_is_expected_takes_the_short_way(hand: Hand, listener: socket.socket, heard: list[tcp.Segment]) -> None:
    server, _ = listener.accept()
    with server:
        for number in range(3):
            hand.send(tcp.ACK | tcp.PSH, b"%d" % number, whole_checksum=False)
            server.sendall(server.recv(1))
            hand.poller.run_once(5)
            assert bytes(hand.receive().payload) == b"%d" % number
        assert heard == []
        hand.sequence += 1
        hand.send(tcp.ACK | tcp.PSH, b"after a hole", whole_checksum=False)
        assert len(heard) == 1


def test_what_only_looks_expected_does_not(hand: Hand, listener: socket.socket, heard: list[tcp.Segment]) -> None:
    """Without an acknowledgment nothing of a segment counts, and an empty one is not acknowledged."""
    server, _ = listener.accept()
    with server:
        hand.send(tcp.PSH, b"no acknowledgment", whole_checksum=False)
        hand.sequence -= len(b"no acknowledgment")
        hand.send(tcp.ACK | tcp.PSH, b"", whole_checksum=False)
        assert len(heard) == 2
        assert hand.connections.due > time.monotonic() + ACK_SECONDS
        hand.send(tcp.ACK | tcp.PSH, b"data", whole_checksum=False)
        assert server.recv(100) == b"data"


def test_of_bare_acknowledgments_in_a_row_the_last_tells_all(
    hand: Hand, listener: socket.socket, heard: list[tcp.Segment]
) -> None:
    server, _ = listener.accept()
    with server:
        pieces = []
        for number in range(4):
            server.sendall(b"piece %d" % number)
            hand.poller.run_once(5)
            hand.receive()
            pieces.append(hand.acknowledgment)
        for number in pieces[:3]:
            hand.acknowledgment = number
            assert hand.send(tcp.ACK, whole_checksum=False, flush=False)
        assert heard == []
        hand.acknowledgment = pieces[3]
        hand.send(tcp.ACK | tcp.PSH, b"and more", whole_checksum=False)
        assert [segment.acknowledgment for segment in heard] == pieces[2:]
        assert server.recv(8) == b"and more"


def test_an_acknowledgment_said_again_counts_as_often_as_it_is_said(hand: Hand, listener: socket.socket) -> None:
    server, _ = listener.accept()
    with server:
        server.sendall(b"lost")
        hand.poller.run_once(5)
        before = hand.acknowledgment
        assert bytes(hand.receive().payload) == b"lost"
        hand.acknowledgment = before
        for again in range(3):  # a guest without selective acknowledgments
            hand.send(tcp.ACK, whole_checksum=False, flush=again == 2)
        assert bytes(hand.receive().payload) == b"lost"


def test_a_large_piece_is_acknowledged_at_once(hand: Hand, listener: socket.socket) -> None:
    server, _ = listener.accept()
    with server:
        hand.send(tcp.ACK | tcp.PSH, bytes(1460))
        assert hand.receive().acknowledgment == hand.sequence


def test_connections_that_are_over_take_no_room(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_module, "MAX_LINGERING", 3)
    hand = Hand(listener)
    hand.connections._max_flows = 2
    for number in range(6):
        hand.guest_port = GUEST_PORT + number
        hand.open()
        server, _ = listener.accept()
        hand.send(tcp.FIN | tcp.ACK)
        server.close()
        hand.poller.run_once(5)
        while not hand.receive().flags & tcp.FIN:
            hand.poller.run_once(5)
        hand.send(tcp.ACK)
        assert hand.states[-1] == tcp_flow.LINGERING
    assert hand.endpoint.flows == 0
    assert len(hand.states) == 3
    hand.close()


def test_a_flood_of_half_open_connections_is_bounded_and_ends_with_a_reset(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp_module, "MAX_HALF_OPEN", 3)
    hand = Hand(listener)
    for number in range(5):
        hand.guest_port = GUEST_PORT + number
        hand.send(tcp.SYN)
    assert (len(hand.states), hand.endpoint.half_open, hand.endpoint.flows) == (3, 3, 3)
    hand.guest_port, hand.sequence = GUEST_PORT, 1001
    hand.send(tcp.RST)
    assert (hand.endpoint.half_open, hand.endpoint.flows) == (2, 2)
    hand.close()
