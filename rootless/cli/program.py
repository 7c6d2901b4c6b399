"""The program: global flags, the table of commands, and errors -> text and exit codes, in one place."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from rootless.cli import table
from rootless.cli.command import Group, UsageError, flag, see_help, switch
from rootless.cli.invocation import Invocation, error_text
from rootless.cli.template import TemplateError
from rootless.model.errors import RootlessError

PROGRAM = "rootless"


class CommandFailed(RootlessError):
    """A command that ends with docker's own exit code: 125, 126, 127. Printed after the program's name."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def root() -> Group:
    """The command `rootless`."""

    @click.pass_context
    def callback(ctx: click.Context, /, host: tuple[str, ...], config: str | None, version: bool, **_: object) -> None:
        if version:
            from rootless import __version__

            sys.stdout.write(f"rootless version {__version__}\n")
            ctx.exit()
        ctx.obj = Invocation(os.environ, host, config or "")

    for declare in (
        flag("-H", "--host", multiple=True, help="Socket of the engine to talk to: unix:///path"),
        flag("--config", help="Directory of docker's client configuration, with the credentials of registries"),
        flag("-c", "--context", hidden=True),
        switch("-D", "--debug", hidden=True),
        flag("-l", "--log-level", hidden=True),
        switch("-v", "--version", help="Show the version and leave"),
    ):
        declare(callback)
    params = list(reversed(callback.__click_params__))  # type: ignore[attr-defined]
    return Group(PROGRAM, "Containers for people without root", table.COMMANDS, callback=callback, params=params)


def run(arguments: Sequence[str]) -> int:
    """Run a command line; returns its exit code. Dies by SIGPIPE where its output is not wanted any more."""
    _prepare_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # as every other program: no traceback, killed by the signal
    try:
        exit_code = _run(arguments)
        sys.stdout.flush()
        return exit_code
    except BrokenPipeError:
        die_by(signal.SIGPIPE)


def _run(arguments: Sequence[str]) -> int:
    command = root()
    try:
        with command.make_context(PROGRAM, list(arguments)) as ctx:
            result = command.invoke(ctx)
            return result if isinstance(result, int) else 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except UsageError as error:
        _complain(str(error))
        return error.exit_code
    except CommandFailed as error:
        _complain(f"{PROGRAM}: {error.message}")
        return error.exit_code
    except RootlessError as error:
        _complain(error_text(error))
        return 1
    except TemplateError as error:
        _complain(str(error))
        return 1
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        name = f" {error.filename}:" if error.filename else ""
        _complain(f"{PROGRAM}:{name} {(error.strerror or str(error)).lower()}")
        return 1


def die_by(number: signal.Signals) -> NoReturn:
    """End this process by a signal, so that its parent sees that."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


def with_help(message: str, command_path: str) -> str:
    """A message and where to read on, as docker ends the complaints of run and create."""
    return f"{message}\n\n{see_help(command_path)}"


def _complain(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _prepare_streams() -> None:
    """UTF-8 whatever the locale, bytes that are none as they came: as docker writes."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="surrogateescape")
