"""click's Command and Group with docker's rules: its flags, its argument counts, its complaints, its help.

`command` and `flag` declare a command; `Group` finds its commands by a table of module names, so that one command
line imports one command's file."""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from rootless.cli import flags as flags_module
from rootless.cli.flags import Flag, FlagError
from rootless.cli.types import LIST

HELP_WIDTH = 80


class UsageError(Exception):
    """The command line itself is wrong. Text and exit code as docker's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Parser:
    """What click expects of a parser, over `flags.parse`."""

    def __init__(self, options: list[click.Option], interspersed: bool) -> None:
        self._flags = [
            Flag(option.name or "", tuple(option.opts), option.is_flag, option.multiple) for option in options
        ]
        self._by_name = {option.name: option for option in options}
        self._interspersed = interspersed
        self._opt_prefixes: set[str] = set()

    def parse_args(self, args: list[str]) -> tuple[dict[str, object], list[str], list[click.Parameter]]:
        values, words, order = flags_module.parse(args, self._flags, self._interspersed)
        return values, words, [self._by_name[name] for name in order]


class Command(click.Command):
    """A command of docker's kind: words that are no flags are counted here and handed to the callback as `args`."""

    def __init__(
        self,
        name: str,
        usage: str = "",
        arguments: tuple[int, int | None] = (0, 0),
        interspersed: bool = True,
        **options: Any,
    ) -> None:
        options.setdefault("context_settings", {})
        options["context_settings"] |= {"allow_extra_args": True, "allow_interspersed_args": interspersed}
        super().__init__(name, add_help_option=False, **options)
        self.usage = usage
        self.least, self.most = arguments
        self.params.append(help_flag())

    def make_parser(self, ctx: click.Context) -> Any:
        return Parser(_options(self), ctx.allow_interspersed_args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            words = super().parse_args(ctx, args)
        except FlagError as error:
            fail(ctx, str(error), 125)
        if ctx.params.pop("show_help"):
            click.echo(self.get_help(ctx))
            ctx.exit()
        if len(words) < self.least or (self.most is not None and len(words) > self.most):
            fail(ctx, f"{_program(ctx)}: '{ctx.command_path}' {self._wanted()}", 1)
        ctx.params["args"] = tuple(words)
        return words

    def _wanted(self) -> str:
        plural = "argument" if self.least == 1 and self.most in (1, None) else "arguments"
        if self.most == 0:
            return "accepts no arguments"
        if self.most == self.least:
            return f"requires {self.least} {plural}"
        if self.most is None:
            return f"requires at least {self.least} {plural}"
        if self.least == 0:
            return f"requires at most {self.most} argument" + ("s" if self.most != 1 else "")
        return f"requires at least {self.least} and at most {self.most} arguments"

    def get_help(self, ctx: click.Context) -> str:
        parts = [usage_line(self, ctx), self.help or ""]
        if rows := _flag_rows(self):
            parts.append("Options:\n" + _table(rows))
        return "\n\n".join(parts)


@dataclass(frozen=True)
class Entry:
    """Where a command of a group is: its module (attribute `command`), a line about it, the heading it stands under."""

    module: str
    summary: str
    heading: str = "Commands"
    hidden: bool = False


class Group(click.Group):
    """A group whose commands are imported when they are asked for."""

    def __init__(self, name: str, summary: str, entries: Mapping[str, Entry], **options: Any) -> None:
        super().__init__(
            name,
            add_help_option=False,
            invoke_without_command=True,
            no_args_is_help=False,
            context_settings={"allow_interspersed_args": False},
            help=summary,
            **options,
        )
        self.entries = entries
        self.params.append(help_flag())

    def make_parser(self, ctx: click.Context) -> Any:
        return Parser(_options(self), interspersed=False)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            words = super().parse_args(ctx, args)
        except FlagError as error:
            fail(ctx, str(error), 125)
        show_help = ctx.params.pop("show_help")
        if show_help or (not (args and self._first_word(ctx)) and not ctx.params.get("version")):
            click.echo(self.get_help(ctx))
            ctx.exit()
        return words

    def _first_word(self, ctx: click.Context) -> str:
        words = [*ctx._protected_args, *ctx.args]
        return words[0] if words else ""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        module = importlib.import_module(f"rootless.cli.commands.{entry.module}")
        found = module.command
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        found = self.get_command(ctx, args[0])
        if found is None:
            fail(ctx, f"{_program(ctx)}: '{args[0]}' is not a {ctx.command_path} command", 1)
        return args[0], found, args[1:]

    def get_help(self, ctx: click.Context) -> str:
        parts = [usage_line(self, ctx), self.help or ""]
        headings: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self.entries.items():
            if not entry.hidden:
                headings.setdefault(entry.heading, []).append((name, entry.summary))
        parts += [f"{heading}:\n" + _table(rows) for heading, rows in headings.items()]
        if rows := _flag_rows(self):
            parts.append("Options:\n" + _table(rows))
        parts.append(f"Run '{ctx.command_path} COMMAND --help' for more information on a command.")
        return "\n\n".join(parts)


def command(
    name: str,
    usage: str = "",
    arguments: tuple[int, int | None] = (0, 0),
    interspersed: bool = True,
) -> Callable[[Callable[..., Any]], Command]:
    """Make a Command of a function; its docstring's first paragraph is the help. The function returns an exit code or
    None and takes the Invocation, `args` and the flags."""

    def decorate(function: Callable[..., Any]) -> Command:
        text = inspect.cleandoc(function.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        params = list(reversed(getattr(function, "__click_params__", [])))
        return Command(
            name,
            usage=usage,
            arguments=arguments,
            interspersed=interspersed,
            callback=click.pass_obj(function),
            params=params,
            help=text,
        )

    return decorate


def flag(*spellings: str, kind: Any = None, **options: Any) -> Callable[[Any], Any]:
    """A flag with a value; `multiple=True` for one that may be repeated."""
    return click.option(*spellings, type=kind or (LIST if options.get("multiple") else click.STRING), **options)


def switch(*spellings: str, **options: Any) -> Callable[[Any], Any]:
    """A flag without a value."""
    options.setdefault("default", False)
    return click.option(*spellings, is_flag=True, **options)


def help_flag() -> click.Option:
    return click.Option(["--help", "show_help"], is_flag=True, default=False, help="Show this text")


def fail(ctx: click.Context, message: str, exit_code: int) -> NoReturn:
    """Raise the UsageError docker would print for this command."""
    lines = [message, "", usage_line(ctx.command, ctx), "", see_help(ctx.command_path)]
    raise UsageError("\n".join(lines), exit_code)


def see_help(command_path: str) -> str:
    return f"See '{command_path} --help'."


def usage_line(of: click.Command, ctx: click.Context) -> str:
    words = ["Usage: ", ctx.command_path]
    if isinstance(of, Group):
        words += ["[OPTIONS]"] * (len(of.params) > 1) + ["COMMAND"]
    else:
        words += ["[OPTIONS]"] * (len(of.params) > 1) + [getattr(of, "usage", "")]
    return " ".join(word for word in words if word)


def _program(ctx: click.Context) -> str:
    return ctx.find_root().command_path


def _options(of: click.Command) -> list[click.Option]:
    return [param for param in of.params if isinstance(param, click.Option)]


def _flag_rows(of: click.Command) -> list[tuple[str, str]]:
    rows = []
    for option in _options(of):
        if option.hidden or option.name == "show_help":
            continue
        short = next((text for text in option.opts if not text.startswith("--")), "")
        long = next((text for text in option.opts if text.startswith("--")), "")
        value = "" if option.is_flag else " " + _value_name(option)
        rows.append((long, f"{short + ', ' if short else '    '}{long}{value}", option.help or ""))
    return [(shown, text) for _, shown, text in sorted(rows)]


def _value_name(option: click.Option) -> str:
    return {"text": "string"}.get(option.type.name, option.type.name)


def _table(rows: list[tuple[str, str]]) -> str:
    width = max(len(left) for left, _ in rows) + 3
    lines = []
    for left, text in rows:
        wrapped = textwrap.wrap(text, max(30, HELP_WIDTH - width - 2)) or [""]
        lines.append(f"  {left:<{width}}{wrapped[0]}".rstrip())
        lines += [" " * (width + 2) + line for line in wrapped[1:]]
    return "\n".join(lines)
