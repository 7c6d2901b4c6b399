"""Making and starting a container, as `run`, `create` and `start -a` do it: the order of requests is what matters here.

    create -> (pull, create again) -> attach -> wait -> start -> streams -> exit code

Attach and wait stand before start: a container may be over before we could ask."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rootless.cli import creation
from rootless.cli.attachment import flush_output
from rootless.cli.interactive import Session, container_session, status
from rootless.cli.invocation import Invocation, error_text
from rootless.cli.program import CommandFailed, with_help
from rootless.client import ApiError, Client, Hijacked, Response
from rootless.client.client import segment
from rootless.client.connection import Connection, ConnectionLost
from rootless.model import reference
from rootless.model.errors import InvalidParameter, RootlessError

FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
ATTEMPTS = 10  # an engine that is lost more often is not worth waiting for
AGAIN_SECONDS = 0.05
RESUMED = b"rootless: the engine was lost and started again; what was printed in between is in the container's log\r\n"


def create(invocation: Invocation, words: Sequence[str], options: Mapping[str, Any]) -> str:
    """Make the container; its id. Pulls the image where it is missing, prints warnings. Raises RootlessError."""
    client = invocation.client
    image = words[0]
    body = creation.body(image, words[1:], options, invocation.environment, os.getcwd())
    query = {"name": options["name"], "platform": options["platform"]}
    cidfile = _open_cidfile(options["cidfile"])
    try:
        if options["pull"] not in ("always", "missing", "never", "lazy"):
            raise InvalidParameter(f"invalid pull option: '{options['pull']}': must be one of always, missing or never")
        if not image or options["pull"] == "always":
            _check_reference(image)
        if options["pull"] == "always":
            _pull(invocation, image, options)
        try:
            made = client.call("POST", "/containers/create", query, body)
        except ApiError as error:
            if error.status != 404 or not _is_missing(error.message) or options["pull"] not in ("missing", "lazy"):
                raise
            _check_reference(image)  # what can be none is refused before anything is said of pulling it
            if not options["quiet"]:
                invocation.complain(f"Unable to find image '{_with_tag(image)}' locally")
            _pull(invocation, image, options)
            made = client.call("POST", "/containers/create", query, body)
        for warning in made.get("Warnings") or []:
            invocation.complain(f"WARNING: {warning}")
        if cidfile is not None:
            os.write(cidfile, made["Id"].encode())
        return str(made["Id"])
    except BaseException:
        if cidfile is not None:
            os.unlink(options["cidfile"])
        raise
    finally:
        if cidfile is not None:
            os.close(cidfile)


def start(client: Client, container: str, query: Mapping[str, object] | None = None) -> None:
    """Raises ApiError."""
    client.call("POST", f"/containers/{segment(container)}/start", query)


def attach(client: Client, container: str, streams: Sequence[str], detach_keys: str, logs: bool = False) -> Hijacked:
    """The container's streams. Raises ApiError, ConnectionLost."""
    query = {"stream": True, "logs": logs, "detachKeys": detach_keys, **dict.fromkeys(streams, True)}
    return client.hijack(f"/containers/{segment(container)}/attach", query)


def ask_wait(client: Client, container: str, condition: str) -> Connection:
    """Ask for the container's end: the head of the response says that the engine has noted it.

    Raises ConnectionLost, Unavailable."""
    return client.ask("POST", f"/containers/{segment(container)}/wait", {"condition": condition})


def run_attached(
    client: Client,
    container: str,
    session: Session,
    streams: Sequence[str],
    auto_remove: bool,
    command_path: str,
) -> int:
    """Attach, start, pass everything on; the container's exit code, 0 where the user detached.

    An engine that is killed meanwhile does not take the container along: we attach again, to the next one. Raises
    CommandFailed, RootlessError."""
    with session.prepared() as prepared:
        stream = attach(client, container, streams, session.detach_keys)
        asked = ask_wait(client, container, "removed" if auto_remove else "next-exit")
        answer = asked.response().checked()
        try:
            start(client, container)
        except RootlessError as error:
            stream.close()
            if auto_remove:
                with contextlib.suppress(RootlessError):
                    answer.read()
            raise start_failure(error, command_path) from error
        prepared.fit()
        for attempt in range(ATTEMPTS):
            try:
                if attempt:
                    time.sleep(AGAIN_SECONDS)  # one that is being killed may still take connections
                    asked = ask_wait(client, container, "removed" if auto_remove else "not-running")
                    answer = asked.response().checked()
                    stream = attach(client, container, streams, session.detach_keys)
                    prepared.fit()
                return 0 if prepared.run(stream, asked) else status(answer.json())
            except ConnectionLost as error:
                if attempt == ATTEMPTS - 1:
                    raise _wait_failed(error) from error
                if not attempt:
                    flush_output()
                    os.write(2, RESUMED)
            except RootlessError as error:
                raise _wait_failed(error) from error
    raise AssertionError


def attach_running(client: Client, container: str, session: Session, streams: Sequence[str]) -> int:
    """Attach to a container that runs; its exit code, 0 where the user detached. Raises RootlessError."""
    with session.prepared() as prepared:
        stream = attach(client, container, streams, session.detach_keys)
        asked = ask_wait(client, container, "not-running")
        answer = asked.response().checked()
        prepared.redraw()
        if prepared.run(stream, asked):
            return 0
        return _answered(answer)


def start_failure(error: RootlessError, command_path: str, fallback: int = FAILED) -> CommandFailed:
    """docker's exit code for a container that could not be started."""
    text = error.message
    code = fallback
    if isinstance(error, ApiError):
        if "executable file not found" in text or "no such file or directory" in text:
            code = NOT_FOUND
        elif "permission denied" in text or "is a directory" in text:
            code = NOT_EXECUTABLE
    return CommandFailed(with_help(error_text(error), command_path), code)


def _answered(answer: Response) -> int:
    try:
        return status(answer.json())
    except RootlessError as error:
        raise _wait_failed(error) from error


def _wait_failed(error: RootlessError) -> CommandFailed:
    return CommandFailed(f"error waiting for container: {error_text(error)}", FAILED)


def failure(error: RootlessError, command_path: str) -> CommandFailed:
    """What goes wrong before a container is made: 125."""
    return CommandFailed(with_help(error_text(error), command_path), FAILED)


def session_of(
    client: Client, container: str, options: Mapping[str, Any], streams: Sequence[str], proxy_signals: bool
) -> Session:
    """The session that run's flags ask for."""
    return container_session(
        client, container, options["tty"], "stdin" in streams, options["detach_keys"] or "", proxy_signals
    )


def _pull(invocation: Invocation, image: str, options: Mapping[str, Any]) -> None:
    from rootless.cli.pulling import pull

    pull(invocation, image, options["platform"], quiet=options["quiet"], progress_fd=2, lazy=options["pull"] == "lazy")


def _check_reference(image: str) -> None:
    """Raises RootlessError: docker's `create` ends with 1 then, its `run` as for everything else."""
    try:
        reference.parse(image)
    except InvalidParameter as error:
        raise RootlessError(error.message) from error


def _is_missing(said: str) -> bool:
    """Of an image: it is not here, or not for the platform that was asked for."""
    return "no such image" in said.lower() or "does not match the specified platform" in said


def _with_tag(image: str) -> str:
    last = image.rpartition("/")[2]
    return image if ":" in last or "@" in last else f"{image}:latest"


def _open_cidfile(path: str | None) -> int | None:
    if not path:
        return None
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise InvalidParameter(
            f"container ID file found, make sure the other container isn't running or delete {path}"
        ) from None
    except OSError as error:
        raise InvalidParameter(f"failed to create the container ID file: {path}: {error.strerror}") from None
