"""`rootless manifest rm`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.invocation import Invocation, error_text
from rootless.model.errors import RootlessError


@declare("rm", "MANIFEST_LIST [MANIFEST_LIST...]", (1, None))
def command(invocation: Invocation, args: tuple[str, ...]) -> int:
    """Remove local lists"""
    from rootless.cli import manifest_lists

    kept = manifest_lists.Lists(invocation.docker_config)
    exit_code = 0
    for text in args:
        try:
            kept.remove(manifest_lists.target(text))
        except RootlessError as error:
            invocation.complain(error_text(error))
            exit_code = 1
    return exit_code
