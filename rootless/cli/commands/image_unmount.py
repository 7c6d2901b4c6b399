"""`rootless image unmount`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.command import switch
from rootless.cli.invocation import Invocation
from rootless.client.client import image_path


@declare("unmount", "IMAGE [IMAGE...]", (1, None))
@switch("-f", "--force", help="Even while somebody uses it")
def command(invocation: Invocation, args: tuple[str, ...], force: bool) -> int:
    """Unmount what `image mount` has mounted"""

    def unmount(name: str) -> None:
        invocation.client.call("POST", f"/rootless/images/{image_path(name)}/unmount", {"force": force})

    return invocation.for_each(args, unmount)
