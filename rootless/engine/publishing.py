"""The ports a container publishes, as it starts and as its way out changes: bound on the host (`published`), given to
the process of the network that is the way out."""

from __future__ import annotations

import errno
from collections.abc import Sequence

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

RELEASE_SECONDS = 5.0  # a network's process closes a port a little after it was told to, on a busy machine later


class Publishing:
    def __init__(self, link: Link) -> None:
        self._link = link

    def bind(self, record: Record, joined: Joined) -> list[BoundPort]:
        """Listen on the host for what it publishes; nothing where it has no way out. Raises Conflict …"""
        member = joined.way_out
        if member is None or member.network.internal or not member.network.has_devices:
            return []
        wanted = published.publications_of(record.host_config, record.config.get("ExposedPorts") or {})
        try:
            return published.bind(wanted, member.network.options.get(BINDING_OPTION, ""))
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

    async def bind_and_publish(self, container: Container, joined: Joined) -> None:
        """Of a container that runs. Waits for ports that the network it was on has not let go of yet. Raises
        RootlessError, and it publishes none then."""
        container.state.ports = []
        deadline = trio.current_time() + RELEASE_SECONDS
        while True:
            try:
                bound = self.bind(container.record, joined)
                break
            except Conflict:
                if trio.current_time() > deadline:
                    raise
                await trio.sleep(0.02)
        container.state.ports = [port.row for port in bound]
        await self.publish(joined, bound)

    async def move(self, container: Container, joined: Joined, old: Member | None) -> None:
        """From what was the way out, if there was one. Raises RootlessError."""
        for index in range(len(container.state.ports) if old else 0):
            assert old is not None
            key = f"{old.endpoint_id}/port/{index}"
            command: dict[str, object] = {"type": "Unpublish", "publish_id": key}
            await self._link.request(messages.NetworkCommand(old.network.id, command, forget_key=key))
        await self.bind_and_publish(container, joined)
