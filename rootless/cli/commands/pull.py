"""`rootless pull`."""

from __future__ import annotations

from rootless.cli import pulling
from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.invocation import Invocation


@declare("pull", "NAME[:TAG|@DIGEST]", (1, 1))
@switch("-a", "--all-tags", help="All tags of the repository")
@switch("--disable-content-trust", default=True, hidden=True, expose_value=False, help="No effect here")
@flag("--platform", help="Platform, e.g. linux/arm64")
@switch("-q", "--quiet", help="Only the image's name at the end")
def command(invocation: Invocation, args: tuple[str, ...], all_tags: bool, platform: str | None, quiet: bool) -> None:
    """Get an image from a registry"""
    name, tag = pulling.named(invocation, args[0], all_tags, quiet)
    pulling.pull(invocation, args[0], platform, quiet, all_tags=all_tags)
    separator = "@" if tag.startswith("sha256:") else ":"
    invocation.say(pulling.canonical(name) + ("" if all_tags else f"{separator}{tag}"))
