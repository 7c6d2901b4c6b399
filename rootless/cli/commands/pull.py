"""`rootless pull`."""

from __future__ import annotations

from rootless.cli import pulling
from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.invocation import Invocation
from rootless.model import reference
from rootless.model.errors import InvalidParameter


@declare("pull", "NAME[:TAG|@DIGEST]", (1, 1))
@switch("-a", "--all-tags", help="All tags of the repository")
@switch("--disable-content-trust", default=True, hidden=True, help="No effect here")
@flag("--platform", help="Platform, e.g. linux/arm64")
@switch("-q", "--quiet", help="Only the image's name at the end")
def command(
    invocation: Invocation,
    args: tuple[str, ...],
    all_tags: bool,
    disable_content_trust: bool,
    platform: str | None,
    quiet: bool,
) -> None:
    """Get an image from a registry"""
    if all_tags and reference.has_tag(args[0]):
        raise InvalidParameter("tag can't be used with --all-tags/-a")
    name, tag = pulling.split_reference(args[0])
    if not all_tags and args[0] == name and not quiet:
        invocation.say(f"Using default tag: {tag}")
    pulling.pull(invocation, args[0], platform, quiet, all_tags=all_tags)
    separator = "@" if tag.startswith("sha256:") else ":"
    invocation.say(pulling.canonical(name) + ("" if all_tags else f"{separator}{tag}"))
