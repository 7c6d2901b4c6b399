"""`rootless push`."""

from __future__ import annotations

from rootless.cli import pulling
from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.invocation import Invocation
from rootless.cli.registry_access import auth_header
from rootless.client.client import image_path
from rootless.model.errors import InvalidParameter


@declare("push", "NAME[:TAG]", (1, 1))
@switch("-a", "--all-tags", help="All tags of the repository")
@switch("--disable-content-trust", default=True, hidden=True, expose_value=False, help="No effect here")
@flag("--platform", help="The image of this platform only")
@switch("-q", "--quiet", help="Only the image's name at the end")
def command(invocation: Invocation, args: tuple[str, ...], all_tags: bool, platform: str | None, quiet: bool) -> None:
    """Send an image to a registry"""
    if "@" in args[0]:
        raise InvalidParameter("cannot push a digest reference")
    name, tag = pulling.named(invocation, args[0], all_tags, quiet)
    query = {"tag": "" if all_tags else tag, "platform": platform}
    headers = {"X-Registry-Auth": "e30=", **auth_header(invocation, name)}  # docker wants one, if of an empty object
    response = invocation.client.open("POST", f"/images/{image_path(name)}/push", query, headers=headers)
    pulling.show_progress(response.json_lines(), quiet, 1)
    if quiet:
        invocation.say(pulling.canonical(name) + ("" if all_tags else f":{tag}"))
