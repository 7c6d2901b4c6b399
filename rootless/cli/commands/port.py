"""`rootless port`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.invocation import Invocation
from rootless.client.client import segment
from rootless.model.errors import InvalidParameter, NotFound


@declare("port", "CONTAINER [PRIVATE_PORT[/PROTO]]", (1, 2))
def command(invocation: Invocation, args: tuple[str, ...]) -> None:
    """Show the published ports of a container"""
    container = invocation.client.call("GET", f"/containers/{segment(args[0])}/json")
    ports = container["NetworkSettings"].get("Ports") or {}
    if len(args) > 1:
        number, _, protocol = args[1].partition("/")
        if not number.isdecimal():
            raise InvalidParameter(f"Error: invalid port ({number})")
        wanted = f"{number}/{protocol or 'tcp'}"
        if not ports.get(wanted):
            raise NotFound(f"Error: No public port '{wanted}' published for {args[0]}")
        for row in ports[wanted]:
            invocation.say(_address(row))
        return
    for port in sorted(ports, key=lambda text: (int(text.partition("/")[0]), text)):
        for row in ports[port] or []:
            invocation.say(f"{port} -> {_address(row)}")


def _address(row: dict[str, str]) -> str:
    address = row.get("HostIp") or ""
    return f"[{address}]:{row['HostPort']}" if ":" in address else f"{address}:{row['HostPort']}"
