"""Whole frames made of rubbish, and of parts that are nearly right, given to a whole network: nothing breaks, nothing
is left behind, memory is bounded.

    python -m tests.slirp.test_frames SECONDS      goes on for longer, and says how many frames there were"""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import itertools
import os
import random
import socket
import sys
import time
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slirp.config import NetworkConfig
from slirp.host import tcp as tcp_module
from slirp.host.endpoint import GATEWAY_MAC
from slirp.run import TURN_SECONDS, Network
from slirp.wire import dhcp, ethernet, icmp, icmpv6, ipv4, ipv6, ndp, tcp, udp, virtio
from slirp.wire.ip import ICMP, ICMPV6, MORE_FRAGMENTS, TCP, UDP

MAC, OTHER_MAC = bytes.fromhex("02420a4d0002"), bytes.fromhex("02420a4d0003")
OWN, OTHER, GATEWAY, OUTSIDE = (ipaddress.IPv4Address(f"10.77.0.{n}").packed for n in (2, 3, 1, 250))
OWN6, OTHER6, GATEWAY6 = (ipaddress.IPv6Address(f"fd00:77::{n}").packed for n in (2, 3, 1))
LOOP, LOOP6 = socket.inet_aton("127.0.0.1"), bytes(15) + b"\1"
# nothing leads outside: what a fuzzer makes up must not leave this machine
CONFIG = NetworkConfig.from_dict(
    {
        "name": "fuzz",
        "subnet4": "10.77.0.0/24",
        "gateway4": "10.77.0.1",
        "subnet6": "fd00:77::/64",
        "gateway6": "fd00:77::1",
        "internal": True,
        "resolvers": ["127.0.0.1"],
        "host_loopback": True,
    }
)
ADDRESSES = [OWN, OTHER, GATEWAY, OUTSIDE, LOOP, b"\xff" * 4, bytes(4), b"\xe0\0\0\1"]
ADDRESSES6 = [OWN6, OTHER6, GATEWAY6, LOOP6, bytes(16), ndp.ALL_NODES, ndp.ALL_ROUTERS, ndp.link_local(MAC)]
CLOSED_PORTS = (9, 11, 53, 67, 547, 65535)


class Fuzzed:
    """A network with two guests, on sockets in place of devices."""

    def __init__(self) -> None:
        ours, self.control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.network = Network(CONFIG, self.control)
        self.wires = []
        for name, mac, number in (("a", MAC, 2), ("b", OTHER_MAC, 3)):
            wire, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            wire.setblocking(False)
            attach = {"endpoint_id": name, "mac": mac.hex(":"), "names": [name]}
            attach |= {"address4": f"10.77.0.{number}/24", "address6": f"fd00:77::{number}/64"}
            self.network._attach(attach, device.detach())
            self.wires.append(wire)
        self.ours = ours

    def fill(self, frames: list[bytes]) -> None:
        """The device of guest a."""
        for frame in frames:
            try:
                self.wires[0].send(frame)
            except BlockingIOError:
                break

    def left(self) -> int:
        """How many frames are still there; none afterwards."""
        tap, count = self.network._endpoints["a"].tap, 0
        with contextlib.suppress(BlockingIOError):
            while os.read(tap, 70000):
                count += 1
        return count

    def give(self, frames: list[bytes]) -> None:
        self.fill(frames)
        router = self.network._router
        for endpoint in self.network._endpoints.values():
            for _ in range(4):
                self.network._frames(endpoint)
        self.network._poller.run_once(0)
        router.connections.act(time.monotonic())
        router.tick(time.monotonic())
        for wire in self.wires:
            self.drain(wire)

    def drain(self, wire: socket.socket) -> None:
        while True:
            try:
                wire.recv(70000)
            except BlockingIOError:
                return

    def close(self) -> None:
        """Everything is given back."""
        endpoints = list(self.network._endpoints.values())
        for endpoint in endpoints:
            self.network._detach(endpoint.endpoint_id)
        for endpoint in endpoints:
            counts = endpoint.flows, endpoint.half_open, endpoint.datagrams, endpoint.queries
            assert counts == (0, 0, 0, 0)
            assert endpoint.buffers.held_bytes == 0
        assert not self.network._router.connections._by_key
        assert not self.network._router.datagrams._mappings
        for sock in (*self.wires, self.ours, self.control):
            sock.close()


# ------------------------------------------------------------------------------------------------ frames
def headers(rng: random.Random) -> bytes:
    kind = rng.choice([0, 0, 0, 1, 4, 5, 0x81, rng.randrange(256)])
    flags = rng.choice([0, 1, 1, 2, 3, rng.randrange(256)])
    return virtio.HEADER.pack(flags, kind, *(rng.choice([0, 1, 14, 34, 54, 1460, 65535]) for _ in range(4)), 0)


def upper(rng: random.Random, protocol: int, source: bytes, destination: bytes) -> bytes:
    """Of a protocol, mostly well made."""
    port, remote = rng.choice([1, 68, 4000, 4001]), rng.choice(CLOSED_PORTS)
    payload = rng.randbytes(rng.choice([0, 1, 8, 40, 300, 1400]))
    if protocol == TCP:
        flags = rng.choice([tcp.SYN, tcp.ACK, tcp.SYN | tcp.ACK, tcp.RST, tcp.FIN | tcp.ACK, rng.randrange(256)])
        options = rng.choice([b"", tcp.emit_options(tcp.Options(1460, 7, True)), rng.randbytes(4 * rng.randrange(10))])
        numbers = rng.choice([0, 1, 1000, 2**31, 2**32 - 1]), rng.choice([0, 1001, 2**32 - 1])
        return tcp.emit_header(port, remote, *numbers, flags, rng.randrange(65536), options) + payload
    if protocol == UDP:
        if rng.random() < 0.2:
            payload = bytes((1, 1, 6, 0)) + rng.randbytes(232) + b"\x63\x82\x53\x63" + rng.randbytes(60)  # DHCP, nearly
        return udp.emit(source, destination, port, remote, payload)
    kinds = [8, 0, 3, 133, 134, 135, 136, 137, 128, rng.randrange(256)]
    message = icmp.Message(rng.choice(kinds), 0, port, 7, payload)
    if protocol == ICMPV6 and len(source) == 16:
        if rng.random() < 0.5:
            message = ndp.emit_solicitation(rng.choice(ADDRESSES6), MAC)
        return icmpv6.emit(source, destination, message)
    return message.emit()


def frame(rng: random.Random) -> bytes:
    version = rng.choice([4, 4, 6, 6, 0])
    target = rng.choice([GATEWAY_MAC, GATEWAY_MAC, OTHER_MAC, ethernet.BROADCAST, b"\x33\x33\0\0\0\1"])
    own = MAC if rng.random() < 0.95 else rng.randbytes(6)
    if version == 0:
        arp = ethernet.ArpPacket(rng.randrange(4), own, rng.choice(ADDRESSES), bytes(6), rng.choice(ADDRESSES))
        body = arp.emit() if rng.random() < 0.7 else rng.randbytes(rng.randrange(80))
        kind = rng.choice([ethernet.ARP, ethernet.IPV4, ethernet.IPV6, rng.randrange(65536)])
    elif version == 4:
        source, destination = (OWN if rng.random() < 0.9 else rng.choice(ADDRESSES)), rng.choice(ADDRESSES)
        protocol = rng.choice([TCP, TCP, UDP, UDP, ICMP, rng.randrange(256)])
        body = upper(rng, protocol, source, destination)
        fragment = rng.choice([0, 0, 0, MORE_FRAGMENTS, 1, 185, MORE_FRAGMENTS | 3, 0x1FFF])
        body = ipv4.emit_header(source, destination, protocol, len(body), rng.randrange(4), fragment) + body
        kind = ethernet.IPV4
    else:
        source, destination = (OWN6 if rng.random() < 0.9 else rng.choice(ADDRESSES6)), rng.choice(ADDRESSES6)
        protocol = rng.choice([TCP, UDP, ICMPV6, ICMPV6, rng.randrange(256)])
        body = upper(rng, protocol, source, destination)
        following = protocol
        for _ in range(rng.choice([0, 0, 0, 1, 2, 9])):
            extension = rng.choice([0, 43, 60, 44])
            extra = ipv6.emit_fragment_header(following, 5, rng.choice([0, 1, MORE_FRAGMENTS]))
            body = (extra if extension == 44 else bytes((following, 0)) + rng.randbytes(6)) + body
            following = extension
        body = ipv6.emit_header(source, destination, following, len(body), rng.choice([255, 64, 0])) + body
        kind = ethernet.IPV6
    made = bytearray(headers(rng) + ethernet.HEADER.pack(target, own, kind) + body)
    for _ in range(rng.choice([0, 0, 0, 1, 3])):
        made[rng.randrange(len(made))] = rng.randrange(256)
    return bytes(made[: rng.randrange(1, len(made))] if rng.random() < 0.1 else made)


# ------------------------------------------------------------------------------------------------ tests
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_no_frame_breaks_the_network_and_everything_is_given_back(seed: int) -> None:
    rng = random.Random(seed)
    fuzzed = Fuzzed()
    for _ in range(5):
        fuzzed.give([frame(rng) for _ in range(20)])
    fuzzed.close()


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=1, max_size=2000))
def test_no_bytes_break_the_network(data: bytes) -> None:
    fuzzed = Fuzzed()
    whole = virtio.PLAIN + GATEWAY_MAC + MAC
    kinds = (b"\x08\0", b"\x86\xdd", b"\x08\x06", b"\x08\0\x45")
    fuzzed.give([data, whole + data, *(whole + kind + data for kind in kinds)])
    fuzzed.close()


def test_a_client_of_dhcp_may_send_anything() -> None:
    rng = random.Random(1)
    fuzzed = Fuzzed()
    for _ in range(200):
        data = bytes((1, 1, 6, 0)) + rng.randbytes(232) + b"\x63\x82\x53\x63" + rng.randbytes(rng.randrange(80))
        datagram = udp.emit(bytes(4), b"\xff" * 4, 68, dhcp.SERVER_PORT, data)
        packet = ipv4.emit_header(bytes(4), b"\xff" * 4, UDP, len(datagram)) + datagram
        fuzzed.give([virtio.PLAIN + ethernet.HEADER.pack(ethernet.BROADCAST, MAC, ethernet.IPV4) + packet])
    fuzzed.close()


def test_a_flood_leaves_memory_bounded() -> None:
    """Fragments that never become whole, and connections that are never answered."""
    fuzzed = Fuzzed()
    endpoint = fuzzed.network._endpoints["a"]
    for number in range(2000):
        body = ipv4.emit_header(OWN, OUTSIDE, UDP, 1400, number & 0xFFFF, MORE_FRAGMENTS) + bytes(1400)
        syn = tcp.emit_header(1 + number, 9, 1000, 0, tcp.SYN, 65535)
        header = ipv4.emit_header(OWN, GATEWAY, TCP, len(syn))
        head = ethernet.HEADER.pack(GATEWAY_MAC, MAC, ethernet.IPV4)
        fuzzed.give([virtio.PLAIN + head + body, virtio.partial(34, 16) + head + header + syn])
    assert len(endpoint.fragments) <= 64
    assert endpoint.half_open <= tcp_module.MAX_HALF_OPEN
    fuzzed.close()


def test_a_turn_is_short_while_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest whose frames cost much takes fewer at once, when something else is ready."""
    fuzzed = Fuzzed()
    endpoint = fuzzed.network._endpoints["a"]
    now = itertools.count(0.0, TURN_SECONDS / 2)  # a frame takes half a turn
    monkeypatch.setattr("slirp.run.time.perf_counter", lambda: next(now))
    for ready_count, taken in ((1, 8), (2, 3)):
        fuzzed.network._poller.ready_count = ready_count
        fuzzed.fill([virtio.PLAIN + bytes(14)] * 8)
        fuzzed.network._frames(endpoint)
        assert fuzzed.left() == 8 - taken
    fuzzed.close()


def test_who_asks_is_read_no_further_until_the_host_has_answered() -> None:
    """The second look would find nothing, most often; who asks again unanswered has more, and so has a busy guest."""
    fuzzed, taken = Fuzzed(), []
    network = fuzzed.network
    endpoint = network._endpoints["a"]

    def known(*_: object) -> bool:
        network._poller.answer_expected = True
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network._router.connections, "known", known)
        for asked, ready_count in ((False, 1), (True, 1), (False, 2)):
            endpoint.has_asked, network._poller.ready_count = asked, ready_count
            fuzzed.fill([virtio.PLAIN + GATEWAY_MAC + MAC + bytes(80)] * 4)
            network._frames(endpoint)
            taken.append(4 - fuzzed.left())
    assert taken == [1, 4, 4]
    fuzzed.close()


def test_a_guest_that_has_gone_takes_no_memory() -> None:
    fuzzed = Fuzzed()
    gone = weakref.ref(fuzzed.network._endpoints["a"])
    gc.disable()  # nobody looks for garbage in time
    try:
        fuzzed.network._detach("a")
        assert gone() is None
    finally:
        gc.enable()
    fuzzed.close()


def main() -> None:
    rng = random.Random(os.urandom(8))
    end, count = time.monotonic() + float(sys.argv[1]), 0
    before = len(os.listdir("/proc/self/fd"))
    while time.monotonic() < end:
        seed = rng.getrandbits(64)
        made = random.Random(seed)
        fuzzed = Fuzzed()
        try:
            for _ in range(200):
                fuzzed.give([frame(made) for _ in range(20)])
                count += 20
            fuzzed.close()
        except BaseException:
            print(f"seed {seed}", flush=True)
            raise
    with open("/proc/self/status") as status:
        memory = next(line for line in status if line.startswith("VmHWM")).split()[1]
    gc.collect()  # the pollers
    left = len(os.listdir("/proc/self/fd")) - before
    print(f"{count} frames, {left} descriptors left, {int(memory) // 1024} MB at most")


if __name__ == "__main__":
    main()
