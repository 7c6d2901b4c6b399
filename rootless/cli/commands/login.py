"""`rootless login`."""

from __future__ import annotations

import os
import sys

from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.invocation import Invocation
from rootless.client import ApiError
from rootless.model.errors import InvalidParameter, RootlessError


@declare("login", "[SERVER]", (0, 1))
@flag("-p", "--password", help="Password or access token")
@switch("--password-stdin", help="Read the password from standard input")
@flag("-u", "--username", help="User name")
def command(
    invocation: Invocation, args: tuple[str, ...], password: str | None, password_stdin: bool, username: str | None
) -> None:
    """Log in to a registry"""
    from rootless.client.credentials import Credentials
    from rootless.registry.servers import key_of, registry_of

    if password is not None:
        invocation.complain("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
        if password_stdin:
            raise InvalidParameter("--password and --password-stdin are mutually exclusive")
    if password_stdin:
        if not username:
            raise InvalidParameter("Must provide --username with --password-stdin")
        password = sys.stdin.buffer.read().decode(errors="surrogateescape").rstrip("\r\n")
    registry = registry_of(args[0] if args else "")
    kept = Credentials(invocation.docker_config, invocation.environment.get("PATH", ""))
    known = kept.get(registry)
    if known and username is None and password is None:
        invocation.say("Authenticating with existing credentials...")
        try:
            invocation.client.call("POST", "/auth", value=known)
            invocation.say("Login Succeeded")
            return
        except ApiError as error:
            invocation.complain(f"Login did not succeed, error: {error.message}")
    username, password = _asked(username, password, (known or {}).get("username", ""))
    auth = {"username": username, "password": password, "serveraddress": key_of(registry)}
    answer = invocation.client.call("POST", "/auth", value=auth)
    if not kept.put(registry, username, password, str(answer.get("IdentityToken") or "")):
        invocation.complain(
            f"\nWARNING! Your credentials are stored unencrypted in '{kept.file}'.\n"
            "Configure a credential helper to remove this warning. See\n"
            "https://docs.docker.com/go/credential-store/\n"
        )
    invocation.say(str(answer.get("Status") or "Login Succeeded"))


def _asked(username: str | None, password: str | None, before: str) -> tuple[str, str]:
    """What was not given, from the terminal. Raises RootlessError where there is none."""
    if (username is None or password is None) and not os.isatty(0):
        raise RootlessError("Error: Cannot perform an interactive login from a non TTY device")
    if username is None:
        username = input(f"Username{f' ({before})' if before else ''}: ").strip() or before
        if not username:
            raise InvalidParameter("Error: Non-null Username Required")
    if password is None:
        from getpass import getpass

        password = getpass("Password: ")
    if not password:
        raise InvalidParameter("Error: Password Required")
    return username, password
