"""`rootless network prune`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.invocation import Invocation
from rootless.cli.pruning import prune
from rootless.cli.types import FILTER, filters


@declare("prune")
@flag("--filter", multiple=True, kind=FILTER, help="Only those that fit, e.g. label=x")
@switch("-f", "--force", help="Do not ask first")
def command(invocation: Invocation, args: tuple[str, ...], filter: tuple[tuple[str, str], ...], force: bool) -> int:
    """Remove networks nobody uses"""
    wanted = filters(filter)
    warning = "This will remove all custom networks not used by at least one container."
    return prune(invocation, "/networks/prune", wanted, "NetworksDeleted", "" if force else warning)
