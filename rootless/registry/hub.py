"""`search`: Docker Hub's API, or for a term that begins with a host the catalogue of that registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from rootless.model.errors import InvalidParameter, RootlessError
from rootless.model.reference import DEFAULT_REGISTRY
from rootless.registry.access import Access, Endpoint
from rootless.registry.client import Registry
from rootless.registry.documents import parse_json

HUB = "index.docker.io"
_MAX_ANSWER_BYTES = 4 << 20


async def search(access: Access, term: str, limit: int, auth: Mapping[str, str] | None) -> list[dict[str, Any]]:
    """Rows in the shape of GET /images/search. Raises NotFound (a registry without catalogue), RootlessError."""
    host, slash, rest = term.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost") and host not in (DEFAULT_REGISTRY, HUB):
        return await _catalogue(access, host, rest, limit, auth)
    word = rest if slash and host in (DEFAULT_REGISTRY, HUB) else term
    target = f"/v1/search?{urlencode({'q': word, 'n': limit})}"
    async with Registry(access, Endpoint(HUB, ("https",)), auth) as hub, hub.request("GET", target) as answer:
        if answer.status != 200:
            raise RootlessError(f"{HUB} answered {answer.status} to the search; try again later")
        found = parse_json(await answer.read(_MAX_ANSWER_BYTES, "the answer"), "the answer").get("results")
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    return [_row(str(row.get("name")), row) for row in rows[:limit]]


async def _catalogue(
    access: Access, host: str, word: str, limit: int, auth: Mapping[str, str] | None
) -> list[dict[str, Any]]:
    rows = []
    async with Registry(access, access.registry(host), auth) as registry:
        async for name in registry.pages("/v2/_catalog", "repositories", "registry:catalog:*"):
            if word in name:
                rows.append(_row(f"{host}/{name}", {}))
                if len(rows) == limit:
                    break
    return rows


def _row(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    stars = found.get("star_count")
    return {
        "name": name,
        "description": str(found.get("description") or ""),
        "star_count": stars if isinstance(stars, int) else 0,
        "is_official": found.get("is_official") is True,
        "is_automated": False,
    }


def fits(row: Mapping[str, Any], filters: Mapping[str, Sequence[str]]) -> bool:
    """docker's filters: stars (at least), is-official, is-automated. Raises InvalidParameter."""
    for name, values in filters.items():
        for value in values:
            if name == "stars":
                if not value.isdecimal():
                    raise InvalidParameter(f"invalid filter 'stars={value}'")
                if row["star_count"] < int(value):
                    return False
            elif value not in ("true", "false", "1", "0"):
                raise InvalidParameter(f"invalid filter '{name}={value}'")
            elif row[name.replace("-", "_")] != (value in ("true", "1")):
                return False
    return True
