"""/networks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

import trio

from rootless.api import filters as filters_module
from rootless.api.http import Request, Response, StreamResponse, json_response
from rootless.engine.engine import Engine
from rootless.model import clock, request_types
from rootless.model.errors import InvalidParameter
from rootless.model.networks import PREDEFINED, Network
from rootless.model.request_types import check_types

_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")


async def list_networks(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    wanted = filters_module.parse(request.query.get("filters", ""), _FILTERS)
    rows = [engine.networks.shape(network) for network in _matching(engine, wanted)]
    return json_response([{**row, "Containers": {}} for row in rows])  # docker's list has none


def _matching(engine: Engine, wanted: filters_module.Filters) -> list[Network]:
    for kind in wanted.get("type", ()):
        if kind not in ("custom", "builtin"):
            raise InvalidParameter(f"invalid filter: 'type'='{kind}'")
    dangling = filters_module.boolean(wanted, "dangling")
    return [n for n in engine.networks.store.by_id.values() if _matches(engine, n, wanted, dangling)]


def _matches(engine: Engine, network: Network, wanted: filters_module.Filters, dangling: bool | None) -> bool:
    if dangling is not None and dangling == (network.name in PREDEFINED or _used(engine, network)):
        return False
    tests: dict[str, Callable[[str], bool]] = {
        "name": lambda value: value in network.name,
        "id": lambda value: network.id.startswith(value),
        "driver": lambda value: value == network.driver,
        "scope": lambda value: value == "local",
        "type": lambda value: (value == "builtin") == (network.name in PREDEFINED),
    }
    if "label" in wanted and not filters_module.labels_match(wanted["label"], network.labels):
        return False
    return all(any(holds(value) for value in wanted[name]) for name, holds in tests.items() if wanted.get(name))


def _used(engine: Engine, network: Network) -> bool:
    """By a container, running or not: prune leaves it."""
    return any(network.name in c.record.endpoints for c in engine.containers.by_id.values())


async def inspect(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    return json_response(engine.networks.shape(engine.networks.store.find(parameters["id"])))


async def create(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    body = await request.json()
    check_types(body, request_types.NETWORK)
    network = engine.networks.store.create(body)
    engine.events.emit("network", "create", network.id, {"name": network.name, "type": network.driver})
    await engine.networks.changed()
    return json_response({"Id": network.id, "Warning": ""}, 201)


async def remove(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    network = engine.networks.store.find(parameters["id"])
    engine.networks.remove(network)
    await engine.networks.stop(network)
    return Response(204)


async def connect(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    body: dict[str, Any] = await request.json()
    check_types(body, request_types.CONNECT)
    network = engine.networks.store.find(parameters["id"])
    await engine.containers.connect(body.get("Container") or "", network, body.get("EndpointConfig") or {})
    return Response(200)


async def disconnect(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    body: dict[str, Any] = await request.json()
    check_types(body, request_types.DISCONNECT)
    network = engine.networks.store.find(parameters["id"])
    await engine.containers.disconnect(body.get("Container") or "", network, force=bool(body.get("Force")))
    return Response(200)


async def prune(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    wanted = filters_module.parse(request.query.get("filters", ""), ("label", "label!", "until"))
    until = _until(wanted.get("until") or [])
    removed = []
    for network in list(engine.networks.store.by_id.values()):
        if network.name in PREDEFINED or _used(engine, network) or engine.networks.memberships.of_network(network.name):
            continue
        if until is not None and clock.nanoseconds(network.created) / 1e9 > until:
            continue
        if not filters_module.labels_match(wanted.get("label", []), network.labels):
            continue
        if wanted.get("label!") and filters_module.labels_match(wanted["label!"], network.labels):
            continue
        engine.networks.remove(network)
        await engine.networks.stop(network)
        removed.append(network.name)
    return json_response({"NetworksDeleted": removed})


async def capture(engine: Engine, request: Request, parameters: dict[str, str]) -> StreamResponse:
    """Ours, not docker's: all frames of a network, as pcap, until the client closes."""
    pipe = trio.lowlevel.FdStream(await engine.networks.capture(engine.networks.store.find(parameters["id"])))

    async def chunks() -> AsyncGenerator[bytes, None]:
        async with pipe:
            while data := await pipe.receive_some():
                yield bytes(data)

    return StreamResponse(chunks(), headers={"Content-Type": "application/vnd.tcpdump.pcap"})


def _until(values: list[str]) -> float | None:
    """Unix seconds."""
    if not values:
        return None
    import time

    from rootless.model.moments import query_moment  # as in images.selection: fractions are 2 ms

    if len(values) != 1:
        raise InvalidParameter("more than one until filter specified")
    return float(query_moment(values[0], time.time()) or 0)


ROUTES = [
    ("GET", "/networks", list_networks),
    ("POST", "/networks/create", create),
    ("POST", "/networks/prune", prune),
    ("GET", "/networks/{id}", inspect),
    ("GET", "/networks/{id}/pcap", capture),
    ("DELETE", "/networks/{id}", remove),
    ("POST", "/networks/{id}/connect", connect),
    ("POST", "/networks/{id}/disconnect", disconnect),
]
