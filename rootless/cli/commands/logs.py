"""`rootless logs`."""

from __future__ import annotations

import time

from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.invocation import Invocation
from rootless.cli.output import copy_stream
from rootless.client.client import segment
from rootless.model.moments import query_moment


@declare("logs", "CONTAINER", (1, 1))
@switch("--details", help="With the attributes given to the log driver")
@switch("-f", "--follow", help="Go on until the container ends")
@flag("--since", help="Only after this time: 2013-01-02T13:23:37Z, or 42m ago")
@flag("-n", "--tail", default="all", help="This many lines from the end")
@switch("-t", "--timestamps", help="With the time of each line")
@flag("--until", help="Only before this time")
def command(
    invocation: Invocation,
    args: tuple[str, ...],
    details: bool,
    follow: bool,
    since: str | None,
    tail: str,
    timestamps: bool,
    until: str | None,
) -> None:
    """Show what a container has written"""
    path = f"/containers/{segment(args[0])}"
    tty = invocation.client.call("GET", f"{path}/json")["Config"]["Tty"]
    query = {
        "stdout": True,
        "stderr": True,
        "details": details,
        "follow": follow,
        "since": query_moment(since, time.time()),
        "until": query_moment(until, time.time()),
        "tail": tail,
        "timestamps": timestamps,
    }
    response = invocation.client.open("GET", f"{path}/logs", query)
    copy_stream(response.chunks(), multiplexed=not tty)
