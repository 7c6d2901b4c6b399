"""Where a guest's packet may go. Pure."""

from __future__ import annotations

import ipaddress
from enum import Enum

from slirp.config import NetworkConfig


class Way(Enum):
    """GATEWAY: to us. SUBNET: a neighbour that is not there. OUTSIDE: through the host. FORBIDDEN: nowhere."""

    GATEWAY = 1
    SUBNET = 2
    OUTSIDE = 3
    FORBIDDEN = 4


class Policy:
    """Of one network."""

    def __init__(self, config: NetworkConfig) -> None:
        self._gateway = ipaddress.IPv4Address(config.gateway4).packed
        subnet = ipaddress.IPv4Network(config.subnet4)
        self._subnet, self._mask = int(subnet.network_address), int(subnet.netmask)
        self._known: dict[bytes, Way] = {}

    def way(self, destination: bytes) -> Way:
        """Of an IPv4 address, four bytes."""
        way = self._known.get(destination)
        if way is None:
            if len(self._known) > 10_000:
                self._known.clear()
            way = self._known[destination] = self._decide(destination)
        return way

    def _decide(self, destination: bytes) -> Way:
        if destination == self._gateway:
            return Way.GATEWAY
        number = int.from_bytes(destination, "big")
        if number & self._mask == self._subnet:
            return Way.SUBNET
        address = ipaddress.IPv4Address(destination)
        if address.is_loopback or address.is_multicast or address.is_unspecified or number >> 24 in (0, 255):
            return Way.FORBIDDEN
        return Way.OUTSIDE
