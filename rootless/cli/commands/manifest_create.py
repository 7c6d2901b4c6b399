"""`rootless manifest create`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.command import switch
from rootless.cli.invocation import Invocation
from rootless.model import reference
from rootless.model.errors import Conflict


@declare("create", "MANIFEST_LIST MANIFEST [MANIFEST...]", (2, None))
@switch("-a", "--amend", help="Add to a list that is there")
@switch("--insecure", help="The registry's certificate need not be known")
def command(invocation: Invocation, args: tuple[str, ...], amend: bool, insecure: bool) -> None:
    """Make a local list of images for several platforms"""
    from rootless.cli import manifest_lists
    from rootless.registry import lists

    name = manifest_lists.target(args[0])
    kept = manifest_lists.Lists(invocation.docker_config)
    if kept.path(name).exists() and not amend:
        raise Conflict("refusing to amend an existing manifest list with no --amend flag")
    found = []
    for text in args[1:]:
        wanted = reference.parse(text)
        access = manifest_lists.access(invocation, wanted.registry, insecure=insecure)
        auth = manifest_lists.auth(invocation, wanted)
        found.append(manifest_lists.run(lambda a=access, w=wanted, c=auth: lists.member(a, w, c)))  # type: ignore[misc]
    for member in found:
        kept.put(name, member)
    invocation.say(f"Created manifest list {name.name}")
