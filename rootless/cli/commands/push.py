"""`rootless push`."""

from __future__ import annotations

from rootless.cli import pulling
from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.invocation import Invocation
from rootless.cli.registry_access import auth_header
from rootless.client.client import image_path
from rootless.model import reference
from rootless.model.errors import InvalidParameter


@declare("push", "NAME[:TAG]", (1, 1))
@switch("-a", "--all-tags", help="All tags of the repository")
@switch("--disable-content-trust", default=True, hidden=True, help="No effect here")
@flag("--platform", help="The image of this platform only")
@switch("-q", "--quiet", help="Only the image's name at the end")
def command(
    invocation: Invocation,
    args: tuple[str, ...],
    all_tags: bool,
    disable_content_trust: bool,
    platform: str | None,
    quiet: bool,
) -> None:
    """Send an image to a registry"""
    if all_tags and reference.has_tag(args[0]):
        raise InvalidParameter("tag can't be used with --all-tags/-a")
    if "@" in args[0]:
        raise InvalidParameter("cannot push a digest reference")
    name, tag = pulling.split_reference(args[0])
    if not all_tags and not reference.has_tag(args[0]) and not quiet:
        invocation.say(f"Using default tag: {tag}")
    query = {"tag": "" if all_tags else tag, "platform": platform}
    headers = {"X-Registry-Auth": "e30=", **auth_header(invocation, name)}  # docker wants one, if of an empty object
    response = invocation.client.open("POST", f"/images/{image_path(name)}/push", query, headers=headers)
    pulling.show_progress(response.json_lines(), quiet, 1)
    if quiet:
        invocation.say(pulling.canonical(name) + ("" if all_tags else f":{tag}"))
