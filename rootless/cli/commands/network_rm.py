"""`rootless network rm`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.command import switch
from rootless.cli.invocation import Invocation
from rootless.client import ApiError
from rootless.client.client import segment


@declare("rm", "NETWORK [NETWORK...]", (1, None))
@switch("-f", "--force", help="No complaint where there is none of the name")
def command(invocation: Invocation, args: tuple[str, ...], force: bool) -> int:
    """Remove one or more networks"""

    def remove(name: str) -> None:
        try:
            invocation.client.call("DELETE", f"/networks/{segment(name)}", {"force": force})
        except ApiError as error:
            if not (force and error.status == 404):
                raise

    return invocation.for_each(args, remove)
