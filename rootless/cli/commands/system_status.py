"""`rootless system status`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.command import flag
from rootless.cli.engine_state import running_client
from rootless.cli.inspection import indented
from rootless.cli.invocation import Invocation
from rootless.cli.listing import executed, go_json, parsed

NOT_RUNNING = 3  # what the Linux Standard Base has for the status of a service that does not run


@declare("status")
@flag("-f", "--format", default="", help="json, or a template")
def command(invocation: Invocation, args: tuple[str, ...], format: str) -> int:
    """Show whether the engine runs, and its processes; exit code 3 where it does not"""
    client = running_client(invocation)
    if client is None:
        invocation.complain("the engine does not run")
        return NOT_RUNNING
    status = client.call("GET", "/rootless/status")
    if format == "json":
        invocation.say(go_json(status))
    elif format:
        invocation.say(executed(parsed(format), status))
    else:
        for name, value in status.items():
            invocation.say(f"{name}: {value if not isinstance(value, dict | list) else indented(value)}")
    return 0
