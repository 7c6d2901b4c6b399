"""The ports a container publishes, as it starts and as its way out changes: bound on the host (`published`), given to
the process of the network that is the way out."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence

import trio

from rootless.engine import published
from rootless.engine.container import Container
from rootless.engine.link import Link
from rootless.engine.memberships import Joined, Member
from rootless.engine.published import BoundPort, close_ports
from rootless.engine.record import Record
from rootless.launcher import messages
from rootless.launcher.client import LaunchFailure
from rootless.model.errors import Conflict, RootlessError
from rootless.model.networks import BINDING_OPTION
from rootless.model.ports import Publication

RELEASE_SECONDS = 5.0  # so long, at most, somebody of ours may still have a port that was given up


class Publishing:
    """Of all containers of this engine. bind() and then publish() at a start; while one runs move(), or
    bind_and_publish() where it has left the network before."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._released: dict[tuple[str, int], float] = {}  # protocol and port on the host -> when

    def _bind(self, record: Record, joined: Joined) -> list[BoundPort]:
        member = joined.way_out
        if member is None or member.network.internal or not member.network.has_devices:
            return []
        try:
            return published.bind(_wanted(record), member.network.options.get(BINDING_OPTION, ""))
        except RootlessError as error:
            endpoint = f"{record.name} ({member.endpoint_id})"
            words = f"driver failed programming external connectivity on endpoint {endpoint}: {error.message}"
            raise type(error)(words) from error

    async def publish(self, joined: Joined, bound: Sequence[BoundPort]) -> None:
        """Give the sockets to the network; in vain where the container has ended already. Raises LaunchFailure."""
        member = joined.way_out
        for index, port in enumerate(bound if member else ()):
            assert member is not None
            key = f"{member.endpoint_id}/port/{index}"
            wanted = port.publication
            command: dict[str, object] = {
                "type": "Publish",
                "publish_id": key,
                "endpoint_id": member.endpoint_id,
                "guest_port": wanted.container_port,
                "protocol": wanted.protocol,
                "host_ip": wanted.host_ip,
                "host_port": wanted.host_port,
            }
            message = messages.NetworkCommand(member.network.id, command, key=key)
            try:
                await self._link.request(message, [port.socket.fileno()])
            except LaunchFailure as failure:
                if failure.errno != errno.ESRCH:
                    raise
                break  # it has ended already
        close_ports(bound)

    def released(self, rows: Iterable[tuple[int, str, str, int]]) -> None:
        """A container of this engine has given these up (BoundPort.row)."""
        now = trio.current_time()
        self._released = {key: when for key, when in self._released.items() if now - when < RELEASE_SECONDS}
        self._released.update({(protocol, host_port): now for _, protocol, _, host_port in rows})

    async def bind(self, record: Record, joined: Joined) -> list[BoundPort]:
        """Listen on the host for what it publishes; nothing where it has no way out. What was just released is waited
        for: a child of the launcher's, which holds a copy of the socket until it executes its program, may still have
        it. Raises Conflict, InvalidParameter, Unavailable."""
        deadline = trio.current_time() + RELEASE_SECONDS
        while True:
            try:
                return self._bind(record, joined)
            except Conflict:
                if trio.current_time() > deadline or not self._just_released(record):
                    raise
                await trio.sleep(0.02)

    def _just_released(self, record: Record) -> bool:
        now = trio.current_time()
        return any(
            wanted.protocol == protocol
            and wanted.host_port <= port <= max(wanted.host_port, wanted.host_port_end)
            and now - when < RELEASE_SECONDS
            for wanted in _wanted(record)
            for (protocol, port), when in self._released.items()
        )

    async def bind_and_publish(self, container: Container, joined: Joined) -> None:
        """Of a container that runs, and may have published elsewhere. Raises RootlessError; it publishes none then."""
        self.released(container.state.ports)
        container.state.ports = []
        bound = await self.bind(container.record, joined)
        container.state.ports = [port.row for port in bound]
        await self.publish(joined, bound)

    async def move(self, container: Container, joined: Joined, old: Member | None) -> None:
        """From what was the way out, if there was one. Raises RootlessError."""
        if old is not None:
            for index in range(len(container.state.ports)):
                key = f"{old.endpoint_id}/port/{index}"
                command: dict[str, object] = {"type": "Unpublish", "publish_id": key}
                await self._link.request(messages.NetworkCommand(old.network.id, command, forget_key=key))
        await self.bind_and_publish(container, joined)


def _wanted(record: Record) -> list[Publication]:
    return published.publications_of(record.host_config, record.config.get("ExposedPorts") or {})
