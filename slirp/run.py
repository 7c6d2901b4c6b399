"""The network process: one loop over its TAPs and its control socket.

So far a switch: frames go from TAP to TAP with their virtio header as they are, and the router answers ARP for the
gateway's address. Commands come as JSON datagrams with descriptors, each is answered with one."""

from __future__ import annotations

import array
import errno
import ipaddress
import json
import os
import select
import socket
from typing import Any

from slirp.config import NetworkConfig
from slirp.devices.tap import HEADER_BYTES

MAX_FRAME = HEADER_BYTES + 14 + 65536
GATEWAY_MAC = bytes.fromhex("020000000001")


def run_network(config: NetworkConfig, control: socket.socket) -> None:
    """Serve until the control socket ends."""
    Network(config, control).run()


class Network:
    """The loop and its ports: endpoint id -> TAP."""

    def __init__(self, config: NetworkConfig, control: socket.socket) -> None:
        self._config = config
        self._control = control
        self._gateway = ipaddress.IPv4Address(config.gateway4).packed
        self._poll = select.poll()
        self._endpoints: dict[str, int] = {}
        self._macs: dict[bytes, int] = {}
        self._own_mac: dict[int, bytes] = {}
        self._buffer = bytearray(MAX_FRAME)

    def run(self) -> None:
        self._poll.register(self._control.fileno(), select.POLLIN)
        while True:
            for fd, _ in self._poll.poll():
                if fd != self._control.fileno():
                    self._frames(fd)
                elif not self._command():
                    return

    # ------------------------------------------------------------------------------------------------ control
    def _command(self) -> bool:
        data, ancillary, _, _ = self._control.recvmsg(1 << 16, socket.CMSG_SPACE(64), socket.MSG_CMSG_CLOEXEC)
        descriptors = array.array("i")
        for _, _, payload in ancillary:
            descriptors.frombytes(payload[: len(payload) & ~3])
        if not data:
            return False
        try:
            answer = self._handle(json.loads(data), list(descriptors))
        except (ValueError, KeyError, OSError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        self._control.send(json.dumps(answer).encode())
        return True

    def _handle(self, command: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        if command["type"] == "Attach" and len(descriptors) == 1:
            (tap,) = descriptors
            self._detach(command["endpoint_id"])
            os.set_blocking(tap, False)
            mac = bytes.fromhex(command["mac"].replace(":", ""))
            self._endpoints[command["endpoint_id"]] = tap
            self._macs[mac], self._own_mac[tap] = tap, mac
            self._poll.register(tap, select.POLLIN)
            return {"ok": True}
        for fd in descriptors:
            os.close(fd)
        if command["type"] == "Detach":
            self._detach(command["endpoint_id"])
            return {"ok": True}
        if command["type"] == "Ping":
            return {"ok": True}
        raise ValueError(f"unknown command {command['type']!r}")

    def _detach(self, endpoint_id: str) -> None:
        tap = self._endpoints.pop(endpoint_id, None)
        if tap is not None:
            self._poll.unregister(tap)
            del self._macs[self._own_mac.pop(tap)]
            os.close(tap)

    # ------------------------------------------------------------------------------------------------ frames
    def _frames(self, tap: int) -> None:
        for _ in range(64):
            try:
                length = os.readv(tap, [self._buffer])
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EINTR):
                    # the container has gone and its device with it; Detach is on its way
                    self._poll.unregister(tap)
                    self._poll.register(tap, 0)
                return
            frame = memoryview(self._buffer)[:length]
            ethernet = frame[HEADER_BYTES:]
            if len(ethernet) < 14 or ethernet[6:12] != self._own_mac[tap]:
                continue  # too short, or not its own address
            self._switch(tap, frame, ethernet)

    def _switch(self, tap: int, frame: memoryview, ethernet: memoryview) -> None:
        destination = bytes(ethernet[:6])
        if destination == GATEWAY_MAC:
            self._route(tap, ethernet)
        elif destination[0] & 1:
            for other in self._own_mac:
                if other != tap:
                    self._write(other, frame)
            self._route(tap, ethernet)
        elif (port := self._macs.get(destination)) is not None:
            self._write(port, frame)

    def _route(self, tap: int, ethernet: memoryview) -> None:
        kind = bytes(ethernet[12:14])
        if kind == b"\x08\x06" and len(ethernet) >= 42:
            arp = bytes(ethernet[14:42])
            if arp[6:8] == b"\0\x01" and arp[24:28] == self._gateway:
                answer = arp[:6] + b"\0\x02" + GATEWAY_MAC + self._gateway + arp[8:18]
                self._write(tap, bytes(HEADER_BYTES) + arp[8:14] + GATEWAY_MAC + b"\x08\x06" + answer)

    def _write(self, tap: int, frame: memoryview | bytes) -> None:
        try:
            os.write(tap, frame)
        except OSError:
            return  # full or gone: a network may lose frames
