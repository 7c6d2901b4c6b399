"""A guest on the network: its device, its addresses, and frames written to it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence

from slirp.devices.pcap import Capture
from slirp.devices.tap import many_datagrams
from slirp.devices.veth import is_packet_socket
from slirp.host.buffers import BufferPool
from slirp.host.poller import Sockets
from slirp.stack.fragments import Fragments
from slirp.wire import ethernet, icmp, icmpv6, ipv4, ipv6, ndp, udp, virtio
from slirp.wire.checksum import fold, pseudo_sum
from slirp.wire.ip import ICMP, ICMPV6, MORE_FRAGMENTS, TTL, UDP, Packet

MAX_SEGMENTS = 64  # of one frame, UDP_MAX_SEGMENTS
_MAX_PAYLOAD = 65535 - 20 - 8
_UDP_START4, _UDP_START6, _CHECKSUM_OFFSET = 14 + 20, 14 + 40, 6
GATEWAY_MAC = bytes.fromhex("020000000001")


class Endpoint:
    """`sockets` are those of the host's that work for it, `listeners` those of its published ports. `address` (IPv4, 4
    bytes) and `address6` (16) are its own, b"" where it has none; with `prefix6` (8 bytes) it also makes itself
    addresses in that prefix, but for `reserved` ones. `mtu` bounds the segments told to it; `flows` (of them
    `half_open`), `datagrams` and `queries` count what it has open. `has_asked`: a small piece of its has gone to the
    host, and since then none has come for it. `look` reads frames of its, as its device's turn does."""

    def __init__(
        self,
        endpoint_id: str,
        tap: int,
        sockets: Sockets,
        listeners: Sockets,
        mac: bytes,
        address: bytes,
        mtu: int,
        names: list[str],
        address6: bytes = b"",
        prefix6: bytes = b"",
        reserved: Sequence[bytes] = (),
    ) -> None:
        self.endpoint_id = endpoint_id
        self.tap = tap
        self.sockets, self.listeners = sockets, listeners
        self.mac = mac
        self.usual_head = GATEWAY_MAC + mac  # of its frames
        self.address = address
        self.address6 = address6
        self.mtu = mtu
        self.names = names
        self.resolvers: tuple[str, ...] = ()  # asked in place of the host's
        self.buffers = BufferPool()
        self.fragments = Fragments()
        self.flows = 0
        self.half_open = 0
        self.datagrams = 0
        self.queries = 0
        self.has_asked = False
        self.look: Callable[[], None] = lambda: None
        self._owned = {owned for owned in (address, address6) if owned}
        self._prefix6, self._reserved = prefix6, frozenset(reserved)
        if address6 or prefix6:
            self._owned.add(ndp.link_local(mac))
        self.capture: Capture | None = None
        self.writev: Callable[[Sequence[bytes | memoryview]], int] = functools.partial(os.writev, tap)
        self._many_datagrams = many_datagrams(tap)
        self._whole_packets = not is_packet_socket(tap)  # of any size; else they are cut to the MTU
        self._identification = 0
        self.head4 = virtio.PLAIN + ethernet.HEADER.pack(mac, GATEWAY_MAC, ethernet.IPV4)
        self.head6 = virtio.PLAIN + ethernet.HEADER.pack(mac, GATEWAY_MAC, ethernet.IPV6)

    def owns(self, address: bytes) -> bool:
        """Whether the guest may speak for this address."""
        if address in self._owned:
            return True
        return bool(self._prefix6) and address[:8] == self._prefix6 and address not in self._reserved

    def address_like(self, peer: bytes) -> bytes:
        """Its address of the same version as `peer`; b"" where it has none."""
        return self.address if len(peer) == 4 else self.address6

    def write(self, parts: list[bytes | memoryview]) -> None:
        """One frame with its virtio header. A frame that the device does not take is lost, as on any network."""
        try:
            self.writev(parts)
        except OSError:
            return

    def captured(self, capture: Capture | None) -> None:
        """From now on, what is written goes there too."""
        self.capture, tap = capture, self.tap

        def both(parts: Sequence[bytes | memoryview]) -> int:
            if capture is not None:
                capture.frame(parts)
            return os.writev(tap, parts)

        self.writev = functools.partial(os.writev, tap) if capture is None else both

    def send(self, source: bytes, destination: bytes, protocol: int, payload: bytes, hops: int = TTL) -> None:
        """A packet of ours, whatever its size. `destination` is the guest's."""
        if not self._whole_packets and len(payload) > self.mtu - (20 if len(source) == 4 else 40):
            self._send_pieces(source, destination, protocol, payload, hops)
        elif len(source) == 4:
            self.write([self.head4, ipv4.emit_header(source, destination, protocol, len(payload)), payload])
        else:
            self.write([self.head6, ipv6.emit_header(source, destination, protocol, len(payload), hops), payload])

    def _send_pieces(self, source: bytes, destination: bytes, protocol: int, payload: bytes, hops: int) -> None:
        """Fragments that fit into the MTU (RFC 791 3.2, RFC 8200 4.5)."""
        self._identification = number = self._identification + 1 & 0xFFFF
        room = (self.mtu - (20 if len(source) == 4 else 48)) & ~7
        for start in range(0, len(payload), room):
            piece = payload[start : start + room]
            fragment = start // 8 | (MORE_FRAGMENTS if start + room < len(payload) else 0)
            if len(source) == 4:
                head = ipv4.emit_header(source, destination, protocol, len(piece), number, fragment)
                self.write([self.head4, head, piece])
            else:
                extension = ipv6.emit_fragment_header(protocol, number, fragment)
                head = ipv6.emit_header(source, destination, ipv6.FRAGMENT, 8 + len(piece), hops)
                self.write([self.head6, head, extension, piece])

    def send_udp(
        self, source: bytes, source_port: int, destination: bytes, destination_port: int, payload: bytes
    ) -> None:
        self.send(source, destination, UDP, udp.emit(source, destination, source_port, destination_port, payload))

    def send_datagrams(
        self,
        source: bytes,
        source_port: int,
        destination: bytes,
        destination_port: int,
        payloads: Sequence[bytes | memoryview],
    ) -> None:
        """Datagrams of one size, but for a shorter last one: as few frames as the device allows, and no checksum."""
        size = len(payloads[0])
        if not self._whole_packets and size > self.mtu - 48:
            for payload in payloads:
                self.send_udp(source, source_port, destination, destination_port, bytes(payload))
            return
        at_once = min(MAX_SEGMENTS, _MAX_PAYLOAD // max(1, size)) if self._many_datagrams and size else 1
        for first in range(0, len(payloads), at_once):
            batch = payloads[first : first + at_once]
            length = udp.HEADER_BYTES + sum(map(len, batch))
            partial = fold(pseudo_sum(source, destination, UDP, length))
            header = udp.HEADER.pack(source_port, destination_port, length, partial)
            if len(source) == 4:
                start, head, packet = _UDP_START4, self.head4, ipv4.emit_header(source, destination, UDP, length)
            else:
                start, head, packet = _UDP_START6, self.head6, ipv6.emit_header(source, destination, UDP, length)
            if len(batch) == 1:
                offload = virtio.partial(start, _CHECKSUM_OFFSET)
            else:
                end = start + udp.HEADER_BYTES
                offload = virtio.segmented(virtio.GSO_UDP_L4, end, size, start, _CHECKSUM_OFFSET)
            self.write([offload + head[virtio.HEADER_BYTES :] + packet + header, *batch])

    def send_icmp(self, source: bytes, destination: bytes, message: icmp.Message, hops: int = TTL) -> None:
        """ICMP or, between IPv6 addresses, ICMPv6."""
        if len(source) == 4:
            self.send(source, destination, ICMP, message.emit())
        else:
            self.send(source, destination, ICMPV6, icmpv6.emit(source, destination, message), hops)

    def send_unreachable(self, code: int, packet: Packet, next_hop_mtu: int = 0) -> None:
        """ICMP destination unreachable about a packet of the guest's, from where it was going (RFC 792, RFC 4443).
        `code` is ICMP's for IPv4 in either case."""
        payload = packet.payload
        if len(packet.source) == 4:
            head = ipv4.emit_header(packet.source, packet.destination, packet.protocol, len(payload))
            message = icmp.unreachable(code, head + bytes(payload[:8]), next_hop_mtu)
        else:
            head = ipv6.emit_header(packet.source, packet.destination, packet.protocol, len(payload))
            message = icmpv6.unreachable(code, head + bytes(payload[: icmpv6.MIN_MTU]), next_hop_mtu)
        self.send_icmp(packet.destination, packet.source, message)
