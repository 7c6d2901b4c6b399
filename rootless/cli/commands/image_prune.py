"""`rootless image prune`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.invocation import Invocation
from rootless.cli.pruning import prune
from rootless.cli.types import FILTER, filters


@declare("prune")
@switch("-a", "--all", help="All that no container uses, not only those without a name")
@flag("--filter", multiple=True, kind=FILTER, help="Only those that fit, e.g. label=x")
@switch("-f", "--force", help="Do not ask first")
def command(
    invocation: Invocation, args: tuple[str, ...], all: bool, filter: tuple[tuple[str, str], ...], force: bool
) -> int:
    """Remove images nobody needs"""
    wanted = filters(filter)
    wanted["dangling"] = ["false" if all else "true"]
    warning = "This will remove all dangling images."
    return prune(invocation, "/images/prune", wanted, "ImagesDeleted", "" if force else warning)
