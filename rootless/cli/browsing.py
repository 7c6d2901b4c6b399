"""`image mount` and `container mount`, and the way back: the same for both but for the path of what is mounted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rootless.cli.invocation import Invocation


def mount(invocation: Invocation, kind: str, names: Sequence[str], path: Callable[[str], str]) -> int:
    """Mount what the names mean and say where, or without any list those of a `kind` ("image", "container") that are.
    `path` gives that of the API for a name. Returns the exit code."""
    if not names:
        for row in invocation.client.call("GET", "/rootless/mounts"):
            found, _, short_id = str(row["Name"]).partition("-")
            if found == kind:
                invocation.say(f"{short_id}  {row['Path']}")
        return 0
    return invocation.for_each(names, lambda name: str(invocation.client.call("POST", f"{path(name)}/mount")["Path"]))


def unmount(invocation: Invocation, names: Sequence[str], path: Callable[[str], str], force: bool) -> int:
    """Returns the exit code."""

    def act(name: str) -> None:
        invocation.client.call("POST", f"{path(name)}/unmount", {"force": force})

    return invocation.for_each(names, act)
