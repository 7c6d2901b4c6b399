"""Which credentials a command sends along: those of the registry that a name is of, from docker's own configuration."""

from __future__ import annotations

from rootless.cli.invocation import Invocation
from rootless.model import reference
from rootless.model.errors import InvalidParameter


def auth_header(invocation: Invocation, name: str) -> dict[str, str]:
    """For a reference or the name of a repository; empty where there are none. Raises InvalidParameter (a damaged
    file), RootlessError (a helper)."""
    try:
        registry = reference.parse(name).registry
    except InvalidParameter:
        return {}  # the engine says what is wrong with it
    return registry_header(invocation, registry)


def registry_header(invocation: Invocation, registry: str) -> dict[str, str]:
    if not (invocation.docker_config / "config.json").exists():
        return {}
    from rootless.client import credentials

    kept = credentials.Credentials(invocation.docker_config, invocation.environment.get("PATH", ""))
    return credentials.header(kept.get(registry))
