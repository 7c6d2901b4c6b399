"""A guest on the network: its device, its addresses, and frames written to it."""

from __future__ import annotations

import os

from slirp.host.buffers import BufferPool
from slirp.stack.fragments import Fragments
from slirp.wire import ethernet, icmp, ipv4, udp, virtio

GATEWAY_MAC = bytes.fromhex("020000000001")


class Endpoint:
    """`mtu` bounds the segments told to the guest; `flows`, `datagrams` and `queries` count what it has open."""

    def __init__(self, endpoint_id: str, tap: int, mac: bytes, address: bytes, mtu: int, names: list[str]) -> None:
        self.endpoint_id = endpoint_id
        self.tap = tap
        self.mac = mac
        self.address = address
        self.mtu = mtu
        self.names = names
        self.buffers = BufferPool()
        self.fragments = Fragments()
        self.flows = 0
        self.datagrams = 0
        self.queries = 0
        self.ethernet = ethernet.HEADER.pack(mac, GATEWAY_MAC, ethernet.IPV4)
        self._plain = virtio.PLAIN + self.ethernet

    def write(self, parts: list[bytes | memoryview]) -> None:
        """One frame with its virtio header. A frame that the device does not take is lost, as on any network."""
        try:
            os.writev(self.tap, parts)
        except OSError:
            return

    def send_ipv4(self, source: bytes, protocol: int, payload: bytes) -> None:
        """A packet of ours, whatever its size: the device has no limit."""
        header = ipv4.emit_header(source, self.address, protocol, len(payload))
        self.write([self._plain, header, payload])

    def send_udp(self, source: bytes, source_port: int, destination_port: int, payload: bytes) -> None:
        datagram = udp.emit(source, self.address, source_port, destination_port, payload)
        self.send_ipv4(source, ipv4.UDP, datagram)

    def send_icmp(self, source: bytes, message: icmp.Message) -> None:
        self.send_ipv4(source, ipv4.ICMP, message.emit())

    def send_unreachable(self, code: int, packet: ipv4.Packet) -> None:
        """ICMP destination unreachable about a packet of the guest's, from where it was going (RFC 792)."""
        payload = packet.payload
        head = ipv4.emit_header(self.address, packet.destination, packet.protocol, len(payload))
        self.send_icmp(packet.destination, icmp.unreachable(code, head + bytes(payload[:8])))
