"""DHCP's answers: a guest that asks gets the address it was given when it came. Pure.

There is nothing to remember: addresses are decided by who attaches the guest, so every lease is the same one again.
DHCPv6 tells what the router advertisement cannot (RFC 8415 6.1: stateless)."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence

from slirp.config import NetworkConfig
from slirp.wire import dhcp

LEASE_SECONDS = 3600
_NOBODY = bytes(4)


class Leases:
    """Of one network. `resolver4`, `resolver6` are where guests ask for names, b"" for nowhere."""

    def __init__(self, config: NetworkConfig, server_mac: bytes, resolver4: bytes, resolver6: bytes) -> None:
        subnet = ipaddress.IPv4Network(config.subnet4 or "0.0.0.0/0")  # without IPv4 nobody has an address to lease
        self._server = ipaddress.IPv4Address(config.gateway4 or 0).packed
        self._resolver6 = resolver6
        self._duid = struct.pack("!HH", 3, 1) + server_mac  # DUID-LL, RFC 8415 11.4
        self._options = {
            dhcp.SUBNET_MASK: subnet.netmask.packed,
            dhcp.BROADCAST: subnet.broadcast_address.packed,
            dhcp.MTU: struct.pack("!H", config.mtu),
        }
        if not config.internal:
            self._options[dhcp.ROUTER] = self._server
        if resolver4:
            self._options[dhcp.DNS] = resolver4

    def answer(self, data: bytes | memoryview, mac: bytes, address: bytes, names: Sequence[str]) -> bytes | None:
        """To a message of the guest with this MAC and address; None for nothing."""
        asked = dhcp.parse(data)
        if asked is None or asked.operation != 1 or asked.hardware != mac or not address:
            return None
        server = asked.options.get(dhcp.SERVER, self._server)
        if server != self._server:
            return None  # it has chosen another
        name = {dhcp.HOST_NAME: names[0].encode("latin-1", "replace")[:63]} if names else {}
        lease = {
            dhcp.LEASE_SECONDS: struct.pack("!I", LEASE_SECONDS),
            dhcp.RENEWAL_SECONDS: struct.pack("!I", LEASE_SECONDS // 2),
            dhcp.REBINDING_SECONDS: struct.pack("!I", LEASE_SECONDS * 7 // 8),
        }
        kind = asked.kind
        if kind == dhcp.DISCOVER:
            return self._message(asked, dhcp.OFFER, address, {**lease, **self._options, **name})
        if kind == dhcp.REQUEST:
            wanted = asked.options.get(dhcp.REQUESTED_ADDRESS) or asked.client
            if wanted != address:
                return self._message(asked, dhcp.NAK, _NOBODY, {})
            return self._message(asked, dhcp.ACK, address, {**lease, **self._options, **name})
        if kind == dhcp.INFORM:
            return self._message(asked, dhcp.ACK, _NOBODY, {**self._options, **name})
        return None

    def _message(self, asked: dhcp.Message, kind: int, yours: bytes, options: dict[int, bytes]) -> bytes:
        answer = {dhcp.KIND: bytes([kind]), dhcp.SERVER: self._server, **options}
        client = _NOBODY if kind == dhcp.NAK else asked.client
        return dhcp.Message(2, asked.transaction, asked.flags, client, yours, asked.hardware, answer).emit()

    def answer6(self, data: bytes | memoryview) -> bytes | None:
        """To an information request; None for anything else: addresses are not given this way."""
        asked = dhcp.parse6(data)
        if asked is None or asked[0] != dhcp.INFORMATION_REQUEST:
            return None
        _, transaction, options = asked
        if options.get(dhcp.SERVER_ID6, self._duid) != self._duid:
            return None
        answer = {dhcp.SERVER_ID6: self._duid}
        if dhcp.CLIENT_ID6 in options:
            answer[dhcp.CLIENT_ID6] = options[dhcp.CLIENT_ID6]
        if self._resolver6:
            answer[dhcp.DNS6] = self._resolver6
        return dhcp.emit6(dhcp.REPLY6, transaction, answer)
