"""`rootless volume rm`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.command import switch
from rootless.cli.invocation import Invocation
from rootless.client import ApiError
from rootless.client.client import segment


@declare("rm", "VOLUME [VOLUME...]", (1, None))
@switch("-f", "--force", help="No complaint where there is none of the name")
def command(invocation: Invocation, args: tuple[str, ...], force: bool) -> int:
    """Remove one or more volumes"""

    def remove(name: str) -> None:
        try:
            invocation.client.call("DELETE", f"/volumes/{segment(name)}", {"force": force})
        except ApiError as error:
            if not (force and error.status == 404):
                raise

    return invocation.for_each(args, remove)
