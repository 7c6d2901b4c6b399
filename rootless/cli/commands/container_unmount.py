"""`rootless container unmount`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.command import switch
from rootless.cli.invocation import Invocation
from rootless.client.client import segment


@declare("unmount", "CONTAINER [CONTAINER...]", (1, None))
@switch("-f", "--force", help="Even while somebody uses it")
def command(invocation: Invocation, args: tuple[str, ...], force: bool) -> int:
    """Unmount what `container mount` has mounted"""

    def unmount(name: str) -> None:
        invocation.client.call("POST", f"/rootless/containers/{segment(name)}/unmount", {"force": force})

    return invocation.for_each(args, unmount)
