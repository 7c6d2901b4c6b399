"""`rootless create`."""

from __future__ import annotations

from typing import Any

import click

from rootless.cli import running
from rootless.cli.command import command as declare
from rootless.cli.command import fail
from rootless.cli.container_flags import container_flags
from rootless.cli.flags import FlagError
from rootless.cli.invocation import Invocation
from rootless.client import ApiError
from rootless.model.errors import InvalidParameter


@declare("create", "IMAGE [COMMAND] [ARG...]", (1, None), interspersed=False)
@container_flags
def command(invocation: Invocation, args: tuple[str, ...], **options: Any) -> None:
    """Make a container and do not start it"""
    ctx = click.get_current_context()
    try:
        invocation.say(running.create(invocation, args, options))
    except FlagError as error:
        fail(ctx, str(error), running.FAILED)
    except ApiError:
        raise
    except InvalidParameter as error:
        raise running.failure(error, ctx.command_path) from error
