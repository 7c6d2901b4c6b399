"""`rootless rmi`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.invocation import Invocation, error_text
from rootless.client import ApiError
from rootless.client.client import image_path
from rootless.model.errors import RootlessError


@declare("rmi", "IMAGE [IMAGE...]", (1, None))
@switch("-f", "--force", help="Also where other names or stopped containers use it")
@switch("--no-prune", help="Keep what it was made of")
@flag("--platform", multiple=True, help="The image of this platform only")
def command(
    invocation: Invocation, args: tuple[str, ...], force: bool, no_prune: bool, platform: tuple[str, ...]
) -> int:
    """Remove one or more images"""
    exit_code = 0
    for name in args:
        query = {"force": force, "noprune": no_prune, "platforms": list(platform)}
        try:
            for removed in invocation.client.call("DELETE", f"/images/{image_path(name)}", query) or []:
                for what in ("Deleted", "Untagged"):
                    if what in removed:
                        invocation.say(f"{what}: {removed[what]}")
        except RootlessError as error:
            invocation.complain(error_text(error))
            if not (force and isinstance(error, ApiError) and error.status == 404):
                exit_code = 1
    return exit_code
