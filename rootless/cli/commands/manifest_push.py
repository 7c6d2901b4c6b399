"""`rootless manifest push`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.command import switch
from rootless.cli.invocation import Invocation


@declare("push", "MANIFEST_LIST", (1, 1))
@switch("--insecure", help="The registry's certificate need not be known")
@switch("-p", "--purge", help="Remove the local list after that")
def command(invocation: Invocation, args: tuple[str, ...], insecure: bool, purge: bool) -> None:
    """Send a local list to a registry"""
    from rootless.cli import manifest_lists
    from rootless.registry import lists

    name = manifest_lists.target(args[0])
    kept = manifest_lists.Lists(invocation.docker_config)
    members = kept.members(name)
    access = manifest_lists.access(invocation, name.registry, insecure=insecure)
    auth = manifest_lists.auth(invocation, name)
    digest = manifest_lists.run(lambda: lists.push(access, name, members, auth))
    if purge:
        kept.remove(name)
    invocation.say(digest)
