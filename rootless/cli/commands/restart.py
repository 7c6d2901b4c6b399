"""`rootless restart`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.command import flag
from rootless.cli.invocation import Invocation
from rootless.cli.types import INTEGER
from rootless.client.client import segment


@declare("restart", "CONTAINER [CONTAINER...]", (1, None))
@flag("-s", "--signal", default="", help="Signal in place of its stop signal")
@flag("-t", "--timeout", "--time", "timeout", kind=INTEGER, help="Seconds to wait before it is killed")
def command(invocation: Invocation, args: tuple[str, ...], signal: str, timeout: int | None) -> int:
    """Stop one or more containers and start them again"""

    def restart(name: str) -> None:
        invocation.client.call("POST", f"/containers/{segment(name)}/restart", {"signal": signal, "t": timeout})

    return invocation.for_each(args, restart)
