"""Where a guest's packet may go. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
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
        self._gateways = {ipaddress.ip_address(text).packed for text in (config.gateway4, config.gateway6) if text}
        self._subnets = [ipaddress.ip_network(text) for text in (config.subnet4, config.subnet6) if text]
        self._versions = {subnet.version for subnet in self._subnets}
        self._outside = Way.FORBIDDEN if config.internal else Way.OUTSIDE
        self._known: dict[bytes, Way] = {}
        self.forbid(config.forbidden)

    def forbid(self, subnets: Sequence[str]) -> None:
        """Nothing leads to these any more; what was forbidden so before may be reached again. Raises ValueError."""
        self._forbidden = [ipaddress.ip_network(text) for text in subnets]
        self._known.clear()

    def way(self, destination: bytes) -> Way:
        """Of an address, four bytes or sixteen."""
        way = self._known.get(destination)
        if way is None:
            if len(self._known) > 10_000:
                self._known.clear()
            way = self._known[destination] = self._decide(destination)
        return way

    def _decide(self, destination: bytes) -> Way:
        if destination in self._gateways:
            return Way.GATEWAY
        address = ipaddress.ip_address(destination)
        if any(address in subnet for subnet in self._subnets):
            return Way.SUBNET
        if any(address in subnet for subnet in self._forbidden):
            return Way.FORBIDDEN
        if address.version not in self._versions:  # a fast socket would have the host's routes for it
            return Way.FORBIDDEN
        if address.is_loopback or address.is_multicast or address.is_unspecified:
            return Way.FORBIDDEN
        if address.version == 4:
            return Way.FORBIDDEN if destination[0] in (0, 255) else self._outside
        # an IPv4 address in disguise would pass by what is said about IPv4's; a link is the host's own
        hidden = address.ipv4_mapped is not None or destination[:12] == bytes(12)
        return Way.FORBIDDEN if hidden or address.is_link_local else self._outside
