"""Where connections of guests come from on the host, if not from where its routes say."""

from __future__ import annotations

import contextlib
import socket

from slirp.config import NetworkConfig

_IP_BIND_ADDRESS_NO_PORT = 24  # include/uapi/linux/in.h


class Outbound:
    """Binds sockets to the addresses of the configuration; "" leaves it to the kernel."""

    def __init__(self, config: NetworkConfig) -> None:
        self._addresses = {socket.AF_INET: config.outbound4, socket.AF_INET6: config.outbound6}

    def address(self, family: int) -> str:
        """To bind a socket of this family to, "" for none."""
        return self._addresses[socket.AddressFamily(family)]

    def bind(self, sock: socket.socket, target: str) -> None:
        """Before connect(). The host's loopback is reached from loopback. Raises OSError."""
        address = self._addresses[socket.AddressFamily(sock.family)]
        if address and not target.startswith("127.") and target != "::1":
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((address, 0))
