"""`prune` of anything: ask, let the engine do it, say what went."""

from __future__ import annotations

import sys

from rootless.cli.invocation import Invocation
from rootless.cli.units import human_size

_TITLES = {
    "ContainersDeleted": "Deleted Containers:",
    "ImagesDeleted": "Deleted Images:",
    "NetworksDeleted": "Deleted Networks:",
    "VolumesDeleted": "Deleted Volumes:",
}


def prune(invocation: Invocation, path: str, wanted: dict[str, list[str]], deleted: str, warning: str) -> int:
    """POST to `path`; `warning` is what has to be agreed to first, if anything. Returns the exit code."""
    if warning and not agreed(f"WARNING! {warning}\nAre you sure you want to continue? [y/N] "):
        invocation.complain("operation was cancelled")
        return 1
    report = invocation.client.call("POST", path, {"filters": wanted})
    if gone := report.get(deleted) or []:
        invocation.say(_TITLES[deleted])
        for item in gone:
            if isinstance(item, dict):
                for what, name in item.items():
                    invocation.say(f"{what.lower()}: {name}")
            else:
                invocation.say(str(item))
        invocation.say("")
    if "SpaceReclaimed" in report:
        invocation.say(f"Total reclaimed space: {human_size(report['SpaceReclaimed'], 4)}")
    return 0


def agreed(question: str) -> bool:
    """Ask; y or yes is a yes."""
    sys.stdout.write(question)
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
