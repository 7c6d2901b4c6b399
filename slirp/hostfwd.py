"""slirp4netns' API socket (slirp4netns(1), API SOCKET): ports of the host forwarded to the guest while it runs.

One JSON call a connection; the network gets each port's socket, bound here."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import time
from collections.abc import Callable
from typing import Any

MAX_REQUEST = 4096
SECONDS = 5.0  # for a client, from its first byte to its last: others wait, and so does the end


class HostForwards:
    """`ask(command, descriptor or -1)` passes a command to the network; it closes the descriptor and raises ValueError
    where the network refuses."""

    def __init__(self, guest: str, ask: Callable[[dict[str, object], int], None]) -> None:
        self._guest, self._ask = guest, ask
        self._entries: dict[int, dict[str, object]] = {}
        self._last = 0

    def serve(self, connection: socket.socket) -> None:
        """Answer one call and close, whatever the client does."""
        deadline = time.monotonic() + SECONDS
        with connection, contextlib.suppress(OSError):
            request = _request(connection, deadline)
            connection.settimeout(SECONDS)
            connection.sendall(json.dumps(self.call(request)).encode())
            if len(request) > MAX_REQUEST:  # closed with something unread, the client would see a reset
                connection.shutdown(socket.SHUT_WR)
                while _receive(connection, deadline):
                    pass

    def call(self, request: bytes) -> dict[str, object]:
        """{"return": …} or {"error": {"desc": …}}."""
        try:
            if len(request) > MAX_REQUEST:
                raise ValueError(f"a call has {MAX_REQUEST} bytes at most")
            call = json.loads(request)
            arguments = call.get("arguments") or {}
            match call.get("execute"):
                case "add_hostfwd":
                    return {"return": {"id": self._add(arguments)}}
                case "list_hostfwd":
                    return {"return": {"entries": [{"id": key, **entry} for key, entry in self._entries.items()]}}
                case "remove_hostfwd":
                    self._remove(arguments)
                    return {"return": {}}
                case other:
                    raise ValueError(f"unknown call {other!r}")
        except (ValueError, KeyError, AttributeError, TypeError, OSError, RecursionError) as error:
            return {"error": {"desc": f"bad request: {error}"}}

    def _add(self, arguments: dict[str, Any]) -> int:
        protocol = str(arguments.get("proto"))
        kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}.get(protocol.rstrip("46"))
        if kind is None:
            raise ValueError(f"proto {protocol!r} is neither tcp nor udp")
        host_port, guest_port = (_port(arguments, name) for name in ("host_port", "guest_port"))
        default = "::" if protocol.endswith("6") else "0.0.0.0"
        host = ipaddress.ip_address(str(arguments.get("host_addr") or default))
        guest = str(arguments.get("guest_addr") or self._guest)
        if guest != self._guest:
            raise ValueError(f"guest_addr {guest} is not the guest's, {self._guest}")
        sock = socket.socket(socket.AF_INET if host.version == 4 else socket.AF_INET6, kind)
        with sock:
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((str(host), host_port))
            if kind == socket.SOCK_STREAM:
                sock.listen(1024)
            self._last += 1
            command: dict[str, object] = {"type": "Publish", "publish_id": str(self._last), "endpoint_id": "guest"}
            command |= {"guest_port": guest_port, "protocol": protocol.rstrip("46")}
            command |= {"host_ip": str(host), "host_port": host_port}
            self._ask(command, sock.detach())
        self._entries[self._last] = {
            "proto": protocol,
            "host_addr": str(host),
            "host_port": host_port,
            "guest_addr": guest,
            "guest_port": guest_port,
        }
        return self._last

    def _remove(self, arguments: dict[str, Any]) -> None:
        number = arguments["id"]
        if type(number) is not int or number not in self._entries:
            raise ValueError(f"no port is forwarded with id {number!r}")
        self._ask({"type": "Unpublish", "publish_id": str(number)}, -1)
        del self._entries[number]


def _request(connection: socket.socket, deadline: float) -> bytes:
    """What the client sends until it is whole, though its side stays open; or too long; or late. Raises OSError."""
    request = b""
    while len(request) <= MAX_REQUEST and (data := _receive(connection, deadline)):
        request += data
        with contextlib.suppress(ValueError, RecursionError):
            json.loads(request)
            break
    return request


def _receive(connection: socket.socket, deadline: float) -> bytes:
    """b"" at the end, and at the deadline. Raises OSError."""
    connection.settimeout(max(0.001, deadline - time.monotonic()))
    try:
        return connection.recv(MAX_REQUEST) if time.monotonic() < deadline else b""
    except TimeoutError:
        return b""


def _port(arguments: dict[str, Any], name: str) -> int:
    value = arguments.get(name)
    if type(value) is not int or not 0 < value < 65536:
        raise ValueError(f"{name} {value!r} is not from 1 to 65535")
    return value
