"""`rootless attach`."""

from __future__ import annotations

from rootless.cli import running
from rootless.cli.attachment import check_terminal
from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.interactive import container_session
from rootless.cli.invocation import Invocation
from rootless.client.client import segment
from rootless.model.errors import Conflict


@declare("attach", "CONTAINER", (1, 1))
@flag("--detach-keys", default="", help="Keys that leave it running")
@switch("--no-stdin", help="Only its output")
@switch("--sig-proxy", default=True, help="Send signals on to it (not with a terminal)")
def command(invocation: Invocation, args: tuple[str, ...], detach_keys: str, no_stdin: bool, sig_proxy: bool) -> int:
    """Connect standard input, output and error to a running container"""
    client = invocation.client
    container = client.call("GET", f"/containers/{segment(args[0])}/json")
    state, config = container["State"], container["Config"]
    if not state["Running"]:
        raise Conflict("cannot attach to a stopped container, start it first")
    if state.get("Paused"):
        raise Conflict("cannot attach to a paused container, unpause it first")
    if state.get("Restarting"):
        raise Conflict("cannot attach to a restarting container, wait until it is running")
    stdin = bool(config.get("OpenStdin")) and not no_stdin
    tty = bool(config.get("Tty"))
    if complaint := check_terminal(stdin, tty):
        invocation.complain(complaint)
        return 1
    streams = ["stdout", "stderr"] + ["stdin"] * stdin
    session = container_session(client, container["Id"], tty, stdin, detach_keys, sig_proxy and not tty)
    return running.attach_running(client, container["Id"], session, streams)
