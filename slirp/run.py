"""The network process: one loop over its TAPs, its sockets and its control socket. A switch, with a router behind it.

Frames between guests go from TAP to TAP with their virtio header as they are. Commands come as JSON datagrams with
descriptors, each is answered with one; one over 60 kB comes as {"type": "Memfd"} and a descriptor of it before others:

    {"type": "Attach", "endpoint_id", "mac", "address4", "address6", "names", "private_names", "resolvers"} + TAP
    {"type": "Names", "endpoint_id", "names", "private_names", "resolvers"}
    {"type": "Reset", "endpoint_id", "flows"}       connections of a process before this one, see host.stale
    {"type": "Forbid", "subnets"}                   in place of those of the configuration
    {"type": "Detach", "endpoint_id"}               the device is gone with the answer
    {"type": "Publish", "publish_id", "endpoint_id", "guest_port", "protocol"} + bound socket
    {"type": "Unpublish", "publish_id"}
    {"type": "Capture"} + descriptor: write all frames there, as pcap; without one, stop
    {"type": "Ping"}               -> {"ok": true, "unconfined": what it could not give up before the first packet}

Answers are {"ok": true} or {"error": …}, with "gone": true where the endpoint is not there."""

from __future__ import annotations

import functools
import ipaddress
import json
import os
import resource
import socket
import time
from typing import Any

from slirp.config import NetworkConfig
from slirp.devices.pcap import Capture
from slirp.devices.tap import HEADER_BYTES
from slirp.host.confinement import confine
from slirp.host.endpoint import GATEWAY_MAC, Endpoint
from slirp.host.poller import READ, TURN_SECONDS, Poller, Sockets
from slirp.router import TICK_SECONDS, Router
from slirp.stack.switch import claims_only

MAX_FRAME = HEADER_BYTES + 14 + 65536
FRAME_BATCH, SMALL_PER_FRAME = 16, 4  # in a turn; and so many times more of those that cost little:
BARE_BYTES = HEADER_BYTES + 14 + 40 + 20  # bare acknowledgments
SMALL_BYTES = 2048  # answers of a server, where no other guest waits: it may have as many as its sockets have turns
NO_HURRY_SECONDS = 1.0
MAX_COMMAND = 16 << 20  # bytes, in a memfd
_ETHERNET_BYTES = 14


def run_network(config: NetworkConfig, control: socket.socket) -> None:
    """Serve until the control socket ends."""
    _allow_many_descriptors()
    Network(config, control).run()


class UnknownEndpoint(Exception):
    """A command about a guest that has gone, perhaps just now."""


class Network:
    """The loop and its ports."""

    def __init__(self, config: NetworkConfig, control: socket.socket) -> None:
        self._config = config
        self._control = control
        self._poller = Poller()
        self._router = Router(config, self._poller)
        self._endpoints: dict[str, Endpoint] = {}
        self._by_mac: dict[bytes, Endpoint] = {}
        self._buffer = bytearray(MAX_FRAME)
        self._view = memoryview(self._buffer)
        self._parts = [self._buffer]
        self._leaving = False
        self._capture: Capture | None = None
        self._unconfined: list[str] | None = None  # what could not be given up

    def run(self) -> None:
        self._poller.add(self._control.fileno(), READ, lambda _: self._command())
        poller, router, connections, clock = self._poller, self._router, self._router.connections, time.monotonic
        next_tick, now = 0.0, clock()
        while not self._leaving:
            patience = connections.due - now
            if patience > TICK_SECONDS:
                patience = min(patience, router.patience_seconds())
            poller.run_once(patience if patience > 0.0 else 0.0)
            if self._unconfined is None and self._endpoints:
                self._unconfined = confine()  # the answer to Attach need not wait for this, packets must
            now = clock()
            if now >= connections.due:
                connections.act(now)
            if now >= next_tick:
                next_tick = now + TICK_SECONDS
                router.tick(now)

    # ------------------------------------------------------------------------------------------------ control
    def _command(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._control, 1 << 16, 16, socket.MSG_CMSG_CLOEXEC)
        if not data:
            self._leaving = True
            return
        try:
            command = json.loads(data)
            if command.get("type") == "Memfd" and descriptors:
                command = json.loads(_content(descriptors.pop(0)))
            answer = self._handle(command, list(descriptors))
        except UnknownEndpoint as error:
            answer = {"error": str(error), "gone": True}
        except (ValueError, KeyError, TypeError, OSError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        self._control.send(json.dumps(answer).encode())

    def _handle(self, command: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        kind = command["type"]
        if kind == "Attach" and len(descriptors) == 1:
            self._attach(command, descriptors[0])
            return {"ok": True}
        if kind == "Publish" and len(descriptors) == 1:
            self._publish(command, descriptors[0])
            return {"ok": True}
        if kind == "Capture" and len(descriptors) == 1:
            self._capture_to(Capture(descriptors[0]))
            return {"ok": True}
        for fd in descriptors:
            os.close(fd)
        if kind == "Capture":
            self._capture_to(None)
        elif kind == "Names":
            self._name(self._endpoint(command), command)
        elif kind == "Reset":
            self._router.reset(self._endpoint(command), command["flows"])
        elif kind == "Forbid":
            self._router.forbid([str(subnet) for subnet in command["subnets"]])
        elif kind == "Detach":
            self._detach(command["endpoint_id"])
        elif kind == "Unpublish":
            self._router.published.unpublish(command["publish_id"])
        elif kind == "Ping":
            return {"ok": True, "unconfined": self._unconfined}
        else:
            raise ValueError(f"unknown command {kind!r}")
        return {"ok": True}

    def _endpoint(self, command: dict[str, Any]) -> Endpoint:
        """Raises UnknownEndpoint."""
        endpoint = self._endpoints.get(command["endpoint_id"])
        if endpoint is None:
            raise UnknownEndpoint(f"endpoint {command['endpoint_id']} is not on the network")
        return endpoint

    def _publish(self, command: dict[str, Any], fd: int) -> None:
        """Raises ValueError, KeyError, UnknownEndpoint; the descriptor is closed then."""
        try:
            endpoint, publish_id = self._endpoint(command), str(command["publish_id"])
            guest_port, protocol = int(command["guest_port"]), str(command["protocol"])
        except BaseException:
            os.close(fd)
            raise
        self._router.published.publish(publish_id, endpoint, guest_port, protocol, fd)

    def _attach(self, command: dict[str, Any], tap: int) -> None:
        """Raises ValueError; the descriptor is closed then."""
        self._detach(command["endpoint_id"])
        try:
            mac = bytes.fromhex(command["mac"].replace(":", ""))
            text4, text6 = str(command.get("address4") or ""), str(command.get("address6") or "")
            address = ipaddress.IPv4Interface(text4).ip.packed if text4 else b""
            address6 = ipaddress.IPv6Interface(text6).ip.packed if text6 else b""
            names = [str(name) for name in command.get("names") or ()]
            if len(mac) != 6 or mac[0] & 1:
                raise ValueError(f"{command['mac']} is no address of a device")
            os.set_blocking(tap, False)
        except BaseException:
            os.close(tap)
            raise
        # addresses are the engine's to give: who had one of these before has gone
        for other in list(self._endpoints.values()):
            if other.mac == mac or (address and other.address == address) or (address6 and other.address6 == address6):
                self._detach(other.endpoint_id)
        config = self._config
        prefix6 = ipaddress.IPv6Network(config.subnet6).network_address.packed[:8] if config.autoconf6 else b""
        reserved = [ipaddress.IPv6Address(text).packed for text in (config.gateway6, config.dns6) if text]
        sockets = Sockets(self._poller)
        listeners = Sockets(self._poller, sockets)
        endpoint = Endpoint(
            command["endpoint_id"],
            tap,
            sockets,
            listeners,
            mac,
            address,
            config.mtu,
            names,
            address6,
            prefix6,
            reserved,
        )
        self._endpoints[endpoint.endpoint_id] = self._by_mac[mac] = endpoint
        self._name(endpoint, command)
        if self._capture is not None:
            endpoint.captured(self._capture)
        self._router.attach(endpoint)
        endpoint.look = functools.partial(self._frames, endpoint)
        self._poller.add_guests(tap, sockets, lambda _: endpoint.look())

    def _name(self, endpoint: Endpoint, command: dict[str, Any]) -> None:
        """Raises ValueError, TypeError."""
        endpoint.resolvers = tuple(str(ipaddress.ip_address(text)) for text in command.get("resolvers") or ())
        names = [str(name) for name in command.get("names") or ()]
        self._router.name(endpoint, names, command.get("private_names") or {})

    def _detach(self, endpoint_id: str) -> None:
        endpoint = self._endpoints.pop(endpoint_id, None)
        if endpoint is not None:
            self._router.forget(endpoint)
            self._poller.remove(endpoint.tap)
            endpoint.sockets.close()
            endpoint.listeners.close()
            endpoint.look = lambda: None  # the other one holds the endpoint until Python looks for garbage
            if self._by_mac.get(endpoint.mac) is endpoint:
                del self._by_mac[endpoint.mac]
            os.close(endpoint.tap)

    def _capture_to(self, capture: Capture | None) -> None:
        if self._capture is not None:
            self._capture.close()
        self._capture = capture
        for endpoint in self._endpoints.values():
            endpoint.captured(capture)

    # ------------------------------------------------------------------------------------------------ frames
    def _frames(self, endpoint: Endpoint) -> None:
        """A batch of one guest's, so that its neighbours get their turn."""
        buffer, view, router, mac = self._buffer, self._view, self._router, endpoint.mac
        parts, usual, poller, until = self._parts, endpoint.usual_head, self._poller, 0.0
        segment, datagram = router.connections.known, router.datagrams.known
        left, small = FRAME_BATCH * SMALL_PER_FRAME, SMALL_BYTES if endpoint.sockets.alone else BARE_BYTES
        while left > 0:
            if until and time.perf_counter() > until:
                break
            try:
                length = os.readv(endpoint.tap, parts)
            except BlockingIOError:
                break
            except OSError:
                # the container has gone and its device with it, which epoll reports for ever; Detach is on its way
                self._poller.remove(endpoint.tap)
                break
            left -= 1 if length <= small else SMALL_PER_FRAME
            if endpoint.capture is not None and not endpoint.capture.frame([view[:length]]):
                self._capture_to(None)
            if buffer[HEADER_BYTES : HEADER_BYTES + 12] == usual:
                if segment(endpoint, buffer, view, length):
                    if poller.answer_expected and not endpoint.has_asked and poller.ready_count == 1:
                        endpoint.has_asked = True  # who waits for an answer has sent nothing more, most likely
                        break
                    continue  # never too many: they wait for our acknowledgments
                until = until or self._turn_ends()
                if datagram(endpoint, buffer, view, length):
                    continue
            until = until or self._turn_ends()
            destination = buffer[HEADER_BYTES : HEADER_BYTES + 6]
            if length < HEADER_BYTES + _ETHERNET_BYTES or buffer[HEADER_BYTES + 6 : HEADER_BYTES + 12] != mac:
                continue  # too short, or not its own address
            if destination == GATEWAY_MAC:
                router.frame(endpoint, view[:length])
                continue
            if not claims_only(view[HEADER_BYTES:length], mac, endpoint.owns):
                if destination[0] & 1:
                    router.unaddressed(endpoint, view[:length])
                continue
            if destination[0] & 1:
                for other in self._endpoints.values() if self._config.guests_meet else ():
                    if other is not endpoint:
                        other.write([view[:length]])
                router.frame(endpoint, view[:length])
            elif self._config.guests_meet and (other_port := self._by_mac.get(bytes(destination))) is not None:
                other_port.write([view[:length]])
        router.flush()

    def _turn_ends(self) -> float:
        return time.perf_counter() + (TURN_SECONDS if self._poller.ready_count > 1 else NO_HURRY_SECONDS)


def _content(fd: int) -> bytes:
    """Of a memfd that holds a command too long for a datagram; the descriptor is closed. Raises ValueError."""
    with open(fd, "rb") as file:
        file.seek(0)  # its position came with it
        data = file.read(MAX_COMMAND + 1)
    if len(data) > MAX_COMMAND:
        raise ValueError("the command is too long")
    return data


def _allow_many_descriptors() -> None:
    """Every flow is a socket: take what the hard limit gives."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return
