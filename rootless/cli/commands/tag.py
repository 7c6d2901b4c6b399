"""`rootless tag`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.invocation import Invocation
from rootless.cli.pulling import split_reference
from rootless.client.client import image_path


@declare("tag", "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", (2, 2))
def command(invocation: Invocation, args: tuple[str, ...]) -> None:
    """Give an image a further name"""
    repository, tag = split_reference(args[1])
    invocation.client.call("POST", f"/images/{image_path(args[0])}/tag", {"repo": repository, "tag": tag})
