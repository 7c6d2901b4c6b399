"""/networks: the three that are there. Making more is the network's own issue."""

from __future__ import annotations

from rootless.api import filters as filters_module
from rootless.api.containers import running
from rootless.api.http import Request, Response, json_response
from rootless.engine.engine import Engine

_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")


async def list_networks(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    wanted = filters_module.parse(request.query.get("filters", ""), _FILTERS)
    rows = [row for row in engine.networks.all(running(engine)) if _matches(row, wanted)]
    return json_response(rows)


def _matches(row: dict[str, object], wanted: filters_module.Filters) -> bool:
    fields = {"name": "Name", "id": "Id", "driver": "Driver", "scope": "Scope"}
    return all(
        any(value in str(row[fields[name]]) for value in values) for name, values in wanted.items() if name in fields
    )


async def inspect(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    return json_response(engine.networks.inspect(parameters["id"], running(engine)))


ROUTES = [
    ("GET", "/networks", list_networks),
    ("GET", "/networks/{id}", inspect),
]
