"""Networks in use: containers join and leave them, running or about to; names and ports follow. Packets are slirp's.

What is on disk is in `network_store`, who has which address in `memberships`; this tells the launcher."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio

from rootless.engine.container import Container
from rootless.engine.events import Events
from rootless.engine.link import Link
from rootless.engine.memberships import Joined, Member, Memberships, choose_primary, row_of, shown_of, unjoined
from rootless.engine.network_device import device_problem
from rootless.engine.network_store import NetworkStore
from rootless.engine.publishing import Publishing
from rootless.engine.record import Record
from rootless.launcher import messages
from rootless.launcher.client import Launcher
from rootless.model.endpoints import CONTAINER, endpoints_of, links_of, mode_of, settings_of
from rootless.model.errors import Conflict, Forbidden, InvalidParameter, NotFound, RootlessError
from rootless.model.links import link_environment
from rootless.model.networks import BRIDGE, HOST, ICC_OPTION, NONE, Network, is_fast, is_true
from rootless.runtime.capabilities import combine
from rootless.runtime.spec import GuestNetwork
from rootless.settings import Settings

CAPTURE_PIPE_BYTES = 1 << 20  # an ordinary user's limit, fs.pipe-max-size


class Networks:
    """`find(text)` gives a container (set by the engine: the two know each other)."""

    def __init__(self, settings: Settings, link: Link, events: Events) -> None:
        self._settings, self._link, self._events = settings, link, events
        self.store = NetworkStore(settings)
        self.memberships = Memberships(settings.mtu, self._id_of)
        self.ports = Publishing(link)
        self.find: Callable[[str], Container]
        self._names_lock = trio.Lock()

    def _id_of(self, text: str) -> str:
        try:
            return self.find(text).id
        except RootlessError:
            return ""

    # ------------------------------------------------------------------------------------------------ made, removed
    def remove(self, network: Network) -> None:
        """Raises Forbidden where it is in use or predefined."""
        members = self.memberships.of_network(network.name)
        if members and network.has_names:
            shown = ", ".join(f'name:"{self.find(id_).name}" id:"{member.endpoint_id[:12]}"' for id_, member in members)
            raise Forbidden(
                f"error while removing network: network {network.name} has active endpoints ({shown}): disconnect or "
                "stop them first"
            )
        self.store.remove(network)
        self.memberships.forget(network)
        self._events.emit("network", "destroy", network.id, {"name": network.name, "type": network.driver})

    async def stop(self, network: Network) -> None:
        """The process of a network that was removed."""
        await self._link.network_stopped(network.id)
        await self.changed()

    def shape(self, network: Network) -> dict[str, Any]:
        members = self.memberships.of_network(network.name)
        return network.shape({id_: row_of(self.find(id_).name, member) for id_, member in members})

    # ------------------------------------------------------------------------------------------------ at create
    def endpoints(self, body: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Network name -> settings, for a container about to be made. Raises InvalidParameter, also for what there is
        not: to a client "not found" is the image, which it pulls then."""
        host_config = body.get("HostConfig") or {}
        mode = mode_of(host_config)
        try:
            if mode.startswith(CONTAINER):
                self.find(mode.removeprefix(CONTAINER))
            for text in host_config.get("Links") or ():
                self.find(str(text).partition(":")[0])
            return endpoints_of(body, self.store.find)
        except NotFound as error:
            raise InvalidParameter(error.message) from None

    def warnings(self, record: Record) -> list[str]:
        """For a container that was made."""
        host = record.host_config
        privileged = bool(host.get("Privileged"))
        fast = any(is_fast(self.store.find(name), settings) for name, settings in record.endpoints.items())
        if fast and "NET_ADMIN" in combine(host.get("CapAdd") or (), host.get("CapDrop") or (), privileged):
            return ["It has no fast sockets: with NET_ADMIN it may have addresses and routes of its own."]
        return []

    # ------------------------------------------------------------------------------------------------ at start
    def attach(self, record: Record) -> Joined:
        """Addresses for a container about to start. Raises NotFound, Forbidden, Conflict, InvalidParameter, and it has
        none then."""
        host = record.host_config
        resolvers = tuple(str(text) for text in host.get("Dns") or ())
        joined = Joined(record.id, links=[str(text) for text in host.get("Links") or ()], resolvers=resolvers)
        mode = mode_of(host)
        if mode.startswith(CONTAINER) or (mode not in (HOST, NONE) and device_problem()):
            return joined
        self._check_links(joined, record.name)
        try:
            for name, settings in (record.endpoints or {mode: {}}).items():
                self._join(joined, self.store.find(name), settings, record)
        except BaseException:
            self.memberships.release(record.id)
            raise
        joined.primary = choose_primary(joined.members.values(), self.store.find(mode).name)
        return joined

    def _join(self, joined: Joined, network: Network, settings: Mapping[str, Any], record: Record) -> Member:
        member = self.memberships.join(joined, network, settings, record.name, record.config["Hostname"])
        self._emit("connect", network, record.id)
        return member

    def _emit(self, action: str, network: Network, container_id: str) -> None:
        attributes = {"container": container_id, "name": network.name, "type": network.driver}
        self._events.emit("network", action, network.id, attributes)

    def _check_links(self, joined: Joined, name: str) -> None:
        for text in joined.links:
            target, _, alias = text.partition(":")
            if self._id_of(target) not in self.memberships.by_container:
                raise Conflict(f"Cannot link to a non running container: /{target} AS /{name}/{alias or target}")

    def linked(self, record: Record) -> list[str]:
        """Environment variables about those a container is linked to, as far as they run."""
        found: list[str] = []
        if not record.host_config.get("Links") or not self._member(record.id, BRIDGE):
            return found
        for target, alias in links_of([str(text) for text in record.host_config["Links"]]):
            other = self._member(self._id_of(target), BRIDGE)
            if other is not None:
                config = self.find(target).record.config
                address, ports = other.shown["IPAddress"], config.get("ExposedPorts") or {}
                found += link_environment(record.name, alias, address, ports, config["Env"])
        return found

    def _member(self, container_id: str, network_name: str) -> Member | None:
        joined = self.memberships.by_container.get(container_id)
        return joined.members.get(network_name) if joined else None

    def guests(self, joined: Joined) -> list[GuestNetwork]:
        """The devices to make."""
        return [
            self.memberships.guest(joined, member) for member in joined.members.values() if member.network.has_devices
        ]

    async def ready(self, joined: Joined) -> None:
        """Start the processes of its networks that do not run."""
        for member in joined.members.values():
            if member.network.has_devices:
                await self._link.network_started(member.network.id, self._config(member.network))

    def _config(self, network: Network) -> dict[str, object]:
        # the fields of slirp.NetworkConfig; importing slirp would cost the engine's start 100 ms
        pool4 = {"subnet4": network.pool4.subnet, "gateway4": network.pool4.gateway} if network.pool4 else {}
        pool6 = {"subnet6": network.pool6.subnet, "gateway6": network.pool6.gateway} if network.pool6 else {}
        return {
            "name": network.name,
            "mtu": network.mtu or self._settings.mtu,
            "host_loopback": self._settings.host_loopback,
            "internal": network.internal,
            "guests_meet": is_true(network.options.get(ICC_OPTION, "true")),
            "forbidden": self._others(network),
            **pool4,
            **pool6,
        }

    def _others(self, network: Network) -> list[str]:
        """The subnets of all other networks."""
        return [pool.subnet for other in self.store.by_id.values() if other.id != network.id for pool in other.pools]

    async def changed(self) -> None:
        """A network was made or removed: those that run are told whose packets they are not to let out."""
        for network_id in self._link.networks:
            network = self.store.by_id.get(network_id)
            if network is not None:
                command: dict[str, object] = {"type": "Forbid", "subnets": self._others(network)}
                with contextlib.suppress(RootlessError):
                    await self._link.request(messages.NetworkCommand(network_id, command, key="forbid"))

    async def capture(self, network: Network) -> int:
        """The read end of a pipe with all its frames from now on, as pcap; closing it is the end. Raises Conflict where
        no container is on it, RootlessError."""
        if network.id not in self._link.networks:
            raise Conflict(f"network {network.name} has no containers that run: there is nothing to capture")
        read_fd, write_fd = os.pipe()
        try:
            fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, CAPTURE_PIPE_BYTES)
            await self._link.request(messages.NetworkCommand(network.id, {"type": "Capture"}), [write_fd])
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
        return read_fd

    # ------------------------------------------------------------------------------------------------ while it runs
    async def connect(self, container: Container, network: Network, asked: Mapping[str, Any]) -> None:
        """Join a network; a running container gets a device. The caller holds the container's lock and writes down
        what has changed of record and state. Raises RootlessError, and nothing has changed then."""
        mode = mode_of(container.record.host_config)
        if mode == HOST or network.name == HOST:
            raise InvalidParameter(
                "container cannot be disconnected from host network or connected to host network: that is decided "
                "when it is made"
            )
        if mode.startswith(CONTAINER):
            raise InvalidParameter("container sharing network namespace with another container cannot be connected")
        if mode == NONE or network.name == NONE:
            raise InvalidParameter(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode"
            )
        if network.name in container.record.endpoints:
            raise Forbidden(f"endpoint with name {container.name} already exists in network {network.name}")
        settings = settings_of(asked, network)
        if container.running:
            await self._connect(container, network, settings)
        container.record.endpoints[network.name] = settings

    async def _connect(self, container: Container, network: Network, settings: Mapping[str, Any]) -> None:
        joined = self.memberships.by_container.get(container.id) or Joined(container.id)
        before = joined.primary
        member = self._join(joined, network, settings, container.record)
        way_out = joined.way_out
        priority = int(way_out.shown.get("GwPriority") or 0) if way_out else 0
        if (
            way_out is None
            or (way_out.network.internal and not network.internal)
            or (int(settings.get("GwPriority") or 0) > priority and not network.internal)
        ):
            joined.primary = network.name
        try:
            await self._link.network_started(network.id, self._config(network))
            await self._link.request(messages.ConnectNetwork(container.id, self.memberships.guest(joined, member)))
        except RootlessError as error:
            joined.primary = before
            self.memberships.leave(joined, network)
            raise RootlessError(f"cannot connect {container.name} to {network.name}: {error.message}") from error
        if joined.primary != before:
            try:
                await self.ports.move(container, joined, way_out)
            except RootlessError:
                await self._link.request(messages.DisconnectNetwork(container.id, network.id, member.endpoint_id))
                self.memberships.leave(joined, network)
                joined.primary = before
                await self._new_way_out(container, joined)
                raise
        self.write_down(container, joined)
        await self.names_changed(network.name)

    async def disconnect(self, container: Container, network: Network, *, force: bool) -> None:
        """The other way. Raises RootlessError; where its ports are not free on its new way out, it has left."""
        if HOST in (network.name, mode_of(container.record.host_config)):
            raise InvalidParameter("container cannot be disconnected from host network or connected to host network")
        if network.name not in container.record.endpoints:
            raise NotFound(f"container {container.id} is not connected to network {network.name}")
        joined = self.memberships.by_container.get(container.id)
        member = joined.members.get(network.name) if joined else None
        problem: RootlessError | None = None
        if joined is not None and member is not None and member.network.has_devices:
            await self._link.request(messages.DisconnectNetwork(container.id, network.id, member.endpoint_id))
            self.memberships.leave(joined, network)
            if joined.primary == network.name:
                joined.primary = choose_primary(joined.members.values())
                try:
                    await self._new_way_out(container, joined)
                except RootlessError as error:
                    problem = error
            self.write_down(container, joined)
            self._emit("disconnect", network, container.id)
            await self.names_changed(network.name)
        del container.record.endpoints[network.name]
        if problem is not None:
            raise problem

    async def _new_way_out(self, container: Container, joined: Joined) -> None:
        """The default route and the ports go to the primary network, if there is one."""
        member = joined.way_out
        if member is not None:
            gateways = member.shown["Gateway"], member.shown["IPv6Gateway"]
            if any(gateways):
                await self._link.request(messages.RouteNetwork(container.id, member.interface, *gateways))
        await self.ports.bind_and_publish(container, joined)

    def write_down(self, container: Container, joined: Joined) -> None:
        """What is in force, into the container's state."""
        state = container.state
        state.networks = {name: member.shown for name, member in joined.members.items()}
        state.interfaces = {name: member.interface for name, member in joined.members.items()}
        state.primary_network = joined.primary

    # ------------------------------------------------------------------------------------------------ names
    async def names_changed(self, network_name: str = "") -> None:
        """Tell the containers that see more than their primary network's names what has changed. One that has just
        ended misses nothing."""
        async with self._names_lock:
            for joined in list(self.memberships.by_container.values()):
                if len(joined.members) > 1 or joined.links or any(m.shown["Links"] for m in joined.members.values()):
                    await self._tell_names(joined)

    async def renamed(self, container: Container, before: str) -> None:
        joined = self.memberships.by_container.get(container.id)
        for member in list(joined.members.values()) if joined else ():
            names = member.shown["DNSNames"]
            if joined is not None and names:
                member.shown["DNSNames"] = [container.name if name == before else name for name in names]
                await self._tell(joined, member)
        await self.names_changed()

    async def _tell_names(self, joined: Joined) -> None:
        member = joined.way_out
        names = self.memberships.private_names(joined)
        if member is not None and member.network.has_devices and names != joined.told:
            joined.told = names
            await self._tell(joined, member)

    async def _tell(self, joined: Joined, member: Member) -> None:
        guest = self.memberships.guest(joined, member)
        command: dict[str, object] = {
            "type": "Names",
            "endpoint_id": member.endpoint_id,
            "names": guest.names,
            "private_names": guest.private_names,
            "resolvers": guest.resolvers,
        }
        try:
            message = messages.NetworkCommand(member.network.id, command, key=f"{member.endpoint_id}/names")
            await self._link.request(message)
        except RootlessError:
            return  # it has ended meanwhile

    # ------------------------------------------------------------------------------------------------ the end of a run
    def release(self, container_id: str) -> None:
        joined = self.memberships.by_container.get(container_id)
        self.memberships.release(container_id)
        for member in joined.members.values() if joined else ():
            self._emit("disconnect", member.network, container_id)

    def adopt(self, container: Container) -> None:
        """A container that runs already."""
        state, record = container.state, container.record
        host = record.host_config
        joined = Joined(record.id, links=[str(text) for text in host.get("Links") or ()])
        joined.resolvers = tuple(str(text) for text in host.get("Dns") or ())
        for number, (name, shown) in enumerate(state.networks.items()):
            try:
                network = self.store.find(name)
            except NotFound:
                continue
            joined.members[name] = Member(network, state.interfaces.get(name, f"eth{number}"), dict(shown))
        joined.primary = state.primary_network or next(iter(joined.members), "")
        self.memberships.adopt(joined)

    async def adopt_endpoints(self, launcher: Launcher, endpoints: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """The devices that the launcher has of each container. One made for an engine which died before it wrote that
        down is taken over where the container's record wants it, else it goes again."""
        for container_id, rows in endpoints.items():
            if not self._id_of(container_id):
                continue
            container = self.find(container_id)
            joined = self.memberships.by_container.get(container_id) or Joined(container_id)
            known = {member.endpoint_id for member in joined.members.values()}
            for row in rows:
                network = self.store.by_id.get(row["network_id"])
                if row["endpoint_id"] in known:
                    continue
                if network is None or network.name not in container.record.endpoints or network.name in joined.members:
                    gone = messages.DisconnectNetwork(container_id, row["network_id"], row["endpoint_id"])
                    await launcher.request(gone)
                    continue
                settings = container.record.endpoints[network.name]
                joined.members[network.name] = Member(network, row["interface"], shown_of(network, settings, row))
                joined.primary = network.name if row["gateway4"] or not joined.primary else joined.primary
                self.memberships.adopt(joined)
                self.write_down(container, joined)

    def shown(self, container: Container) -> dict[str, Any]:
        """NetworkSettings.Networks."""
        if container.running:
            return container.state.networks
        found = {}
        mode = mode_of(container.record.host_config)
        default: dict[str, Any] = {} if mode.startswith(CONTAINER) else {mode: {}}
        for name, settings in (container.record.endpoints or default).items():
            try:
                found[name] = unjoined(self.store.find(name), settings)
            except NotFound:
                continue
        return found
