"""`rootless logout`."""

from __future__ import annotations

from rootless.cli.command import command as declare
from rootless.cli.invocation import Invocation


@declare("logout", "[SERVER]", (0, 1))
def command(invocation: Invocation, args: tuple[str, ...]) -> None:
    """Forget the credentials of a registry"""
    from rootless.client.credentials import Credentials
    from rootless.registry.servers import key_of, registry_of

    registry = registry_of(args[0] if args else "")
    kept = Credentials(invocation.docker_config, invocation.environment.get("PATH", ""))
    if kept.forget(registry):
        invocation.say(f"Removing login credentials for {key_of(registry)}")
    else:
        invocation.say(f"Not logged in to {key_of(registry)}")
