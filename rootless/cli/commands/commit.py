"""`rootless commit`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.invocation import Invocation
from rootless.cli.pulling import split_reference


@declare("commit", "CONTAINER [REPOSITORY[:TAG]]", (1, 2))
@flag("-a", "--author", default="", help="Author, e.g. Jane <jane@example.org>")
@flag("-c", "--change", multiple=True, help="Instruction of a Dockerfile to apply, e.g. CMD sh")
@flag("-m", "--message", default="", help="Comment in the image's history")
@switch("-p", "--pause", default=True, help="Stop the container's processes meanwhile")
def command(
    invocation: Invocation, args: tuple[str, ...], author: str, change: tuple[str, ...], message: str, pause: bool
) -> None:
    """Make an image of what a container changed"""
    repository, tag = split_reference(args[1]) if any(args[1:]) else ("", "")
    query = {
        "container": args[0],
        "repo": repository,
        "tag": tag,
        "author": author,
        "comment": message,
        "changes": list(change),
        "pause": "1" if pause else "0",
    }
    invocation.say(invocation.client.call("POST", "/commit", query, {})["Id"])
