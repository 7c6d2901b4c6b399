"""`rootless volume prune`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.invocation import Invocation
from rootless.cli.pruning import prune
from rootless.cli.types import FILTER, filters


@declare("prune")
@switch("-a", "--all", help="Those with a name as well")
@flag("--filter", multiple=True, kind=FILTER, help="Only those that fit, e.g. label=x")
@switch("-f", "--force", help="Do not ask first")
def command(
    invocation: Invocation, args: tuple[str, ...], all: bool, filter: tuple[tuple[str, str], ...], force: bool
) -> int:
    """Remove volumes nobody uses"""
    wanted = filters(filter)
    if all:
        wanted["all"] = ["true"]
    warning = "This will remove anonymous local volumes not used by at least one container."
    return prune(invocation, "/volumes/prune", wanted, "VolumesDeleted", "" if force else warning)
