"""`rootless events`."""

from __future__ import annotations

import time
from typing import Any

from rootless.cli.command import command as declare
from rootless.cli.command import flag
from rootless.cli.invocation import Invocation
from rootless.cli.listing import executed, go_json, parsed
from rootless.cli.types import FILTER, filters
from rootless.model.moments import query_moment


@declare("events")
@flag("-f", "--filter", multiple=True, kind=FILTER, help="Only those that fit, e.g. type=container")
@flag("--format", default="", help="json, or a template")
@flag("--since", help="Those since this time as well")
@flag("--until", help="Only until this time")
def command(
    invocation: Invocation,
    args: tuple[str, ...],
    filter: tuple[tuple[str, str], ...],
    format: str,
    since: str | None,
    until: str | None,
) -> None:
    """Show what happens, as it happens"""
    now = time.time()
    query = {"since": query_moment(since, now), "until": query_moment(until, now), "filters": filters(filter)}
    template = parsed(format) if format not in ("", "json") else None
    for event in invocation.client.open("GET", "/events", query).json_lines():
        if template is not None:
            invocation.say(executed(template, event))
        else:
            invocation.say(go_json(event) if format == "json" else _line(event))


def _line(event: dict[str, Any]) -> str:
    """ "2026-11-24T02:10:13.000000000+00:00 container start 873f… (image=debian, name=keep)"."""
    nanoseconds = int(event.get("timeNano") or int(event.get("time") or 0) * 10**9)
    seconds = time.localtime(nanoseconds // 10**9)
    zone = time.strftime("%z", seconds)
    moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', seconds)}.{nanoseconds % 10**9:09d}{zone[:3]}:{zone[3:]}"
    actor = event.get("Actor") or {}
    attributes = ", ".join(f"{name}={value}" for name, value in sorted((actor.get("Attributes") or {}).items()))
    line = f"{moment} {event.get('Type')} {event.get('Action')} {actor.get('ID')}"
    return f"{line} ({attributes})" if attributes else line
