"""What the switch lets pass between guests: no frame may claim an address that is another's. Pure."""

from __future__ import annotations

from slirp.wire import ethernet

_ARP_SENDER = ethernet.HEADER_BYTES + 8  # sender's hardware and protocol address, RFC 826
_IPV4_SOURCE = ethernet.HEADER_BYTES + 12  # RFC 791 3.1
_PROBE = bytes(4)  # an ARP probe claims nothing, RFC 5227 2.1.1


def claims_only(frame: memoryview, mac: bytes, address: bytes) -> bool:
    """Whether an Ethernet frame speaks for nobody but this endpoint. Its source MAC is checked before. Kinds that know
    no IPv4 address pass: between guests it is their link."""
    kind = frame[12] << 8 | frame[13]
    if kind == ethernet.IPV4:
        return frame[_IPV4_SOURCE : _IPV4_SOURCE + 4] == address
    if kind == ethernet.ARP:
        sender = frame[_ARP_SENDER + 6 : _ARP_SENDER + 10]
        return frame[_ARP_SENDER : _ARP_SENDER + 6] == mac and sender in (address, _PROBE)
    return True
