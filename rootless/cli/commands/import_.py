"""`rootless import`."""

from __future__ import annotations

from rootless.cli.archives import read_chunks
from rootless.cli.command import command as declare
from rootless.cli.command import flag
from rootless.cli.invocation import Invocation
from rootless.cli.pulling import checked, split_reference


@declare("import", "file|URL|- [REPOSITORY[:TAG]]", (1, 2))
@flag("-c", "--change", multiple=True, help="Instruction of a Dockerfile to apply, e.g. CMD sh")
@flag("-m", "--message", default="", help="Comment in the image's history")
@flag("--platform", default="", help="Platform of the image")
def command(
    invocation: Invocation, args: tuple[str, ...], change: tuple[str, ...], message: str, platform: str
) -> None:
    """Make an image of a root file system in a tar archive"""
    source = args[0]
    repository, tag = split_reference(args[1]) if any(args[1:]) else ("", "")
    remote = source.startswith(("http://", "https://"))
    query = {
        "fromSrc": source if remote else "-",
        "repo": repository,
        "tag": tag,
        "message": message,
        "platform": platform,
        "changes": list(change),
    }
    body = None if remote else read_chunks(None if source == "-" else source)
    headers = {"Content-Type": "application/x-tar"}
    response = invocation.client.open("POST", "/images/create", query, body=body, headers=headers)
    for progress in checked(response.json_lines()):
        if not progress.get("progressDetail") and progress.get("status"):
            invocation.say(str(progress["status"]))
