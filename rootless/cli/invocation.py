"""What a command's function gets: the client of the engine, the environment, and ways to say things.

Environment variables are read here and in `program`, and nowhere else of the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from rootless.client import Client, resolve_endpoint
from rootless.model.errors import RootlessError


class Invocation:
    """One command line being run."""

    def __init__(self, environment: Mapping[str, str], hosts: Sequence[str] = (), config: str = "") -> None:
        self.environment = environment
        self._config = config
        self._hosts = hosts
        self.program = "rootless"
        self.command_path = "rootless"

    @cached_property
    def client(self) -> Client:
        """Raises InvalidParameter where -H or a setting is wrong."""
        return Client(resolve_endpoint(self._hosts, self.environment))

    def say(self, text: str) -> None:
        """A line on standard output, now: what follows may take long."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def complain(self, text: str) -> None:
        """A line on standard error."""
        sys.stdout.flush()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def for_each(self, names: Iterable[str], act: Callable[[str], object]) -> int:
        """Do something with each name and print it, or the text that comes of it, or nothing where that is False;
        complain of those that fail. Returns the exit code."""
        exit_code = 0
        for name in names:
            try:
                result = act(name)
                if result is not False:
                    self.say(str(result) if isinstance(result, str) else name)
            except RootlessError as error:
                self.complain(error_text(error))
                exit_code = 1
        return exit_code

    @property
    def docker_config(self) -> Path:
        """The directory with docker's client configuration: --config, $DOCKER_CONFIG, ~/.docker."""
        return Path(self._config or self.environment.get("DOCKER_CONFIG") or f"{self.home}/.docker")

    @property
    def home(self) -> str:
        return self.environment.get("HOME") or os.path.expanduser("~")


def error_text(error: RootlessError) -> str:
    """How an error is printed: what the engine refused is told apart from what failed here."""
    from rootless.client import ApiError

    if isinstance(error, ApiError):
        return f"Error response from daemon: {error.message}"
    return error.message
