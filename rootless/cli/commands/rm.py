"""`rootless rm`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.command import switch
from rootless.cli.invocation import Invocation
from rootless.client import ApiError
from rootless.client.client import segment


@declare("rm", "CONTAINER [CONTAINER...]", (1, None))
@switch("-f", "--force", help="Kill it first if it runs")
@switch("-l", "--link", help="Remove the link of this name, not the container")
@switch("-v", "--volumes", help="Its anonymous volumes as well")
def command(invocation: Invocation, args: tuple[str, ...], force: bool, link: bool, volumes: bool) -> int:
    """Remove one or more containers"""

    def remove(name: str) -> bool:
        query = {"force": force, "link": link, "v": volumes}
        try:
            invocation.client.call("DELETE", f"/containers/{segment(name.strip('/'))}", query)
        except ApiError as error:
            if not (force and error.status == 404):
                raise
            invocation.complain(f"Error response from daemon: {error.message}")
            return False
        return True

    return invocation.for_each(args, remove)
