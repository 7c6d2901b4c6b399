"""`rootless run`."""

from __future__ import annotations

from typing import Any

import click

from rootless.cli import creation, running
from rootless.cli.attachment import check_terminal
from rootless.cli.command import command as declare
from rootless.cli.command import fail, flag, switch
from rootless.cli.container_flags import container_flags
from rootless.cli.flags import FlagError
from rootless.cli.invocation import Invocation
from rootless.cli.program import CommandFailed
from rootless.model.errors import RootlessError


@declare("run", "IMAGE [COMMAND] [ARG...]", (1, None), interspersed=False)
@switch("-d", "--detach", help="Leave it running, print its id")
@flag("--detach-keys", help="Keys that leave it running, e.g. ctrl-a,a")
@switch("--sig-proxy", default=True, help="Send signals on to it (not with -t)")
@container_flags
def command(invocation: Invocation, args: tuple[str, ...], **options: Any) -> int:
    """Make a container from an image and run it"""
    ctx = click.get_current_context()
    client = invocation.client
    if options["detach"] and options["attach"]:
        raise RootlessError("conflicting options: cannot specify both --attach and --detach")
    try:
        streams = creation.attached_streams(options)
        if complaint := check_terminal("stdin" in streams, options["tty"]):
            invocation.complain(complaint)
            return 1
        container = running.create(invocation, args, options)
    except FlagError as error:
        fail(ctx, str(error), running.FAILED)
    except CommandFailed:
        raise
    except RootlessError as error:
        raise running.failure(error, ctx.command_path) from error
    if options["detach"] or not streams:
        try:
            running.start(client, container)
        except RootlessError as error:
            raise running.start_failure(error, ctx.command_path) from error
        invocation.say(container)
        return 0
    session = running.session_of(client, container, options, streams, options["sig_proxy"])
    return running.run_attached(client, container, session, streams, options["rm"], ctx.command_path)
