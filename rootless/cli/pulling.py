"""Pulling an image with its progress shown: lines where nobody watches, moving ones on a terminal."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from rootless.cli.invocation import Invocation
from rootless.cli.output import write_all
from rootless.cli.registry_access import auth_header
from rootless.client import ApiError
from rootless.model import reference
from rootless.model.errors import InvalidParameter


def pull(
    invocation: Invocation,
    wanted: str,
    platform: str | None,
    quiet: bool,
    progress_fd: int = 1,
    all_tags: bool = False,
    lazy: bool = False,
) -> None:
    """Get an image; progress goes to `progress_fd`. Raises ApiError, ConnectionLost, RootlessError."""
    name, tag = split_reference(wanted)
    query = {"fromImage": name, "tag": None if all_tags else tag, "platform": platform, "lazy": lazy}
    response = invocation.client.open("POST", "/images/create", query, headers=auth_header(invocation, name))
    show_progress(response.json_lines(), quiet, progress_fd)


def named(invocation: Invocation, text: str, all_tags: bool, quiet: bool) -> tuple[str, str]:
    """What `pull` and `push` are asked for, as `split_reference`; says which tag is meant where none is given. Raises
    InvalidParameter."""
    if all_tags and reference.has_tag(text):
        raise InvalidParameter("tag can't be used with --all-tags/-a")
    name, tag = split_reference(text)
    if not all_tags and text == name and not quiet:
        invocation.say(f"Using default tag: {tag}")
    return name, tag


def split_reference(text: str) -> tuple[str, str]:
    """("host:5000/a/b:c") -> ("host:5000/a/b", "c"); a digest counts as a tag; "latest" where there is neither.

    Raises InvalidParameter."""
    reference.parse(text)
    if "@" in text:
        name, _, digest = text.partition("@")
        return name, digest
    path, slash, last = text.rpartition("/")
    last, _, tag = last.partition(":")
    return f"{path}{slash}{last}", tag or "latest"


def canonical(name: str) -> str:
    """("debian") -> "docker.io/library/debian": with the registry's name."""
    first, slash, _ = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"


def show_progress(messages: Iterable[dict[str, Any]], quiet: bool, fd: int) -> None:
    """Show docker's progress messages until they end. Raises ApiError for the one that says what went wrong."""
    if not quiet and os.isatty(fd):
        from rootless.cli.progress import show_moving

        show_moving(checked(messages), fd)
        return
    for message in checked(messages):
        if not quiet and (line := progress_line(message)):
            write_all(fd, line.encode() + b"\n")


def checked(messages: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """The messages. Raises ApiError at an error."""
    for message in messages:
        if "error" in message or "errorDetail" in message:
            detail = message.get("errorDetail") or {}
            raise ApiError(500, str(detail.get("message") or message.get("error")))
        yield message


def progress_line(message: dict[str, Any]) -> str:
    """A message as a line of its own; empty for those that only move a bar."""
    if "stream" in message:
        return str(message["stream"]).rstrip("\n")
    if message.get("progressDetail"):
        return ""
    text = str(message.get("status") or "")
    return f"{message['id']}: {text}" if message.get("id") and text else text
