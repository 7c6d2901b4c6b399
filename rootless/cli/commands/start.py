"""`rootless start`."""

from __future__ import annotations

import click

from rootless.cli import running
from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.interactive import container_session
from rootless.cli.invocation import Invocation, error_text
from rootless.client.client import segment
from rootless.model.errors import InvalidParameter, RootlessError


@declare("start", "CONTAINER [CONTAINER...]", (1, None))
@switch("-a", "--attach", help="Attach to its output, send signals on")
@flag("--checkpoint", default="", hidden=True, help="Not supported")
@flag("--checkpoint-dir", default="", hidden=True, help="Not supported")
@flag("--detach-keys", default="", help="Keys that leave it running")
@switch("-i", "--interactive", help="Attach its input")
def command(
    invocation: Invocation,
    args: tuple[str, ...],
    attach: bool,
    checkpoint: str,
    checkpoint_dir: str,
    detach_keys: str,
    interactive: bool,
) -> int:
    """Start one or more containers that do not run"""
    if checkpoint or checkpoint_dir:
        raise InvalidParameter("checkpoints are not supported")
    if attach or interactive:
        if len(args) > 1:
            raise InvalidParameter("you cannot start and attach multiple containers at once")
        return _attached(invocation, args[0], detach_keys, interactive)
    failed: list[str] = []
    for name in args:
        try:
            running.start(invocation.client, name)
            invocation.say(name)
        except RootlessError as error:
            invocation.complain(error_text(error))
            failed.append(name)
    if failed:
        invocation.complain(f"Error: failed to start containers: {', '.join(failed)}")
    return 1 if failed else 0


def _attached(invocation: Invocation, name: str, detach_keys: str, interactive: bool) -> int:
    client = invocation.client
    container = client.call("GET", f"/containers/{segment(name)}/json")
    config = container["Config"]
    streams = ["stdout", "stderr"]
    if interactive and config.get("OpenStdin"):
        streams.append("stdin")
    identity = str(container["Id"])
    tty = bool(config.get("Tty"))
    session = container_session(client, identity, tty, "stdin" in streams, detach_keys, proxy_signals=not tty)
    auto_remove = bool((container.get("HostConfig") or {}).get("AutoRemove"))
    command_path = click.get_current_context().command_path
    return running.run_attached(client, identity, session, streams, auto_remove, command_path)
