"""By which device the host would send to an address. One question and one answer of rtnetlink(7); pyroute2 would be ten
times as slow for it, and every connection asks. Used by `supervisor`."""

from __future__ import annotations

import socket
import struct
import sys

_RTM_NEWROUTE, _RTM_GETROUTE, _NLM_F_REQUEST = 24, 26, 1  # include/uapi/linux/rtnetlink.h, netlink.h
_RTA_DST, _RTA_OIF = 1, 4
_RTN_UNICAST = 1
_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_ATTRIBUTE = struct.Struct("=HH")
_FAMILY = {4: socket.AF_INET, 16: socket.AF_INET6}


class Routes:
    """Of the network namespace it is made in."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)  # NETLINK_ROUTE
        self._number = 0

    def device_to(self, address: bytes) -> int:
        """The index of the device to an address (4 bytes or 16); 0 where it is the host's own, or out of reach.
        Raises OSError."""
        self._number += 1
        route = _ROUTE.pack(_FAMILY[len(address)], 8 * len(address), 0, 0, 0, 0, 0, 0, 0)
        body = route + _ATTRIBUTE.pack(_ATTRIBUTE.size + len(address), _RTA_DST) + address
        size = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(size, _RTM_GETROUTE, _NLM_F_REQUEST, self._number, 0) + body)
        while True:
            data = self._socket.recv(4096)
            _, kind, _, number, _ = _HEADER.unpack_from(data)
            if number == self._number:
                return _device(data) if kind == _RTM_NEWROUTE else 0


def _device(data: bytes) -> int:
    if _ROUTE.unpack_from(data, _HEADER.size)[7] != _RTN_UNICAST:
        return 0
    at = _HEADER.size + _ROUTE.size
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if kind == _RTA_OIF:
            return int.from_bytes(data[at + _ATTRIBUTE.size : at + length], sys.byteorder)
        at += max(_ATTRIBUTE.size, (length + 3) & ~3)
    return 0
