"""The networks of this host: `bridge`, `host`, `none`, and those the user has made, one file each.

state root/networks/<id>.json"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rootless.model import clock
from rootless.model.addresses import pool_of
from rootless.model.errors import Forbidden, InvalidParameter, NotFound
from rootless.model.networks import BRIDGE, HOST, MTU_OPTION, NONE, PREDEFINED, Network, network_of
from rootless.settings import Settings
from rootless.store import files

ROUTES = "/proc/net/route"


class NetworkStore:
    """`load()` first. Blocking, quick."""

    def __init__(self, settings: Settings) -> None:
        self._directory = settings.state_root / "networks"
        self.by_id: dict[str, Network] = {}
        for network in _predefined(settings):
            self.by_id[network.id] = network

    def load(self) -> None:
        """Raises OSError. A file that is no network's is left where it is."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(self._directory.glob("*.json")):
            try:
                network = Network.from_dict(json.loads(path.read_bytes()))
            except (ValueError, KeyError, TypeError):
                continue
            self.by_id[network.id] = network

    def find(self, text: str) -> Network:
        """By name, id, or a prefix of the id. Raises NotFound, InvalidParameter in docker's words."""
        wanted = BRIDGE if text == "default" else text
        for network in self.by_id.values():
            if wanted in (network.name, network.id):
                return network
        matching = [network for id_, network in self.by_id.items() if wanted and id_.startswith(wanted)]
        if len(matching) > 1:
            raise InvalidParameter(f"network {text} is ambiguous ({len(matching)} matches found on ID prefix)")
        if not matching:
            raise NotFound(f"network {text} not found")
        return matching[0]

    def create(self, body: Mapping[str, Any]) -> Network:
        """Raises InvalidParameter, Conflict, Forbidden, NotFound, OSError."""
        unique = secrets.token_hex(8)  # RFC 4193: fd, then 40 bits of chance, then the subnet's number
        private6 = f"fd{unique[:2]}:{unique[2:6]}:{unique[6:10]}:{unique[10:14]}::/64"
        network = network_of(
            body,
            self.by_id.values(),
            host_subnets(Path(ROUTES)),
            network_id=secrets.token_hex(32),
            created=clock.rfc3339(time.time_ns()),
            private6=private6,
        )
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write_file(self._directory / f"{network.id}.json", json.dumps(network.as_dict()).encode())
        self.by_id[network.id] = network
        return network

    def remove(self, network: Network) -> None:
        """Raises Forbidden, OSError."""
        if network.name in PREDEFINED:
            raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        (self._directory / f"{network.id}.json").unlink(missing_ok=True)
        files.sync_directory(self._directory)
        del self.by_id[network.id]


def network_id(name: str) -> str:
    """Of a predefined one: the same on every machine, as there is one of each."""
    return hashlib.sha256(f"rootless network {name}".encode()).hexdigest()


def host_subnets(routes: Path) -> list[str]:
    """The subnets this machine is on or has a route to, of /proc/net/route; the default route is not one."""
    import ipaddress

    found = []
    try:
        lines = routes.read_text().splitlines()[1:]
    except OSError:
        return []
    for line in lines:
        words = line.split()
        if len(words) > 7 and words[1] != "00000000":
            address = ipaddress.IPv4Address(bytes.fromhex(words[1])[::-1])
            mask = ipaddress.IPv4Address(bytes.fromhex(words[7])[::-1])
            found.append(str(ipaddress.ip_network(f"{address}/{mask}", strict=False)))
    return found


def _predefined(settings: Settings) -> list[Network]:
    try:
        pool4 = pool_of({"Subnet": settings.bridge_subnet})
        pool6 = pool_of({"Subnet": settings.bridge_subnet6}) if settings.bridge_subnet6 else None
    except InvalidParameter as error:
        raise InvalidParameter(f"bridge_subnet, bridge_subnet6: {error.message}") from None
    options = {MTU_OPTION: str(settings.mtu)}
    bridge = Network(network_id(BRIDGE), BRIDGE, clock.ZERO, "bridge", pool4, pool6, options=options)
    return [
        bridge,
        Network(network_id(HOST), HOST, clock.ZERO, "host"),
        Network(network_id(NONE), NONE, clock.ZERO, "null"),
    ]
