"""`rootless container mount`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.invocation import Invocation
from rootless.client.client import segment


@declare("mount", "[CONTAINER...]", (0, None))
def command(invocation: Invocation, args: tuple[str, ...]) -> int:
    """Mount one or more containers where you can look inside, read-only; without a name, list what is mounted"""
    if not args:
        for row in invocation.client.call("GET", "/rootless/mounts"):
            kind, _, short_id = str(row["Name"]).partition("-")
            if kind == "container":
                invocation.say(f"{short_id}  {row['Path']}")
        return 0

    def mount(name: str) -> str:
        return str(invocation.client.call("POST", f"/rootless/containers/{segment(name)}/mount")["Path"])

    return invocation.for_each(args, mount)
