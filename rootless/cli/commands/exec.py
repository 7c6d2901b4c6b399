"""`rootless exec`."""

from __future__ import annotations

import click

from rootless.cli.attachment import check_terminal
from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.env_files import environment_list
from rootless.cli.interactive import Session
from rootless.cli.invocation import Invocation
from rootless.cli.output import STDOUT_FD
from rootless.cli.program import CommandFailed
from rootless.cli.running import FAILED, start_failure
from rootless.cli.terminal import size
from rootless.cli.types import ENVIRONMENT
from rootless.client import ApiError
from rootless.client.client import segment


@declare("exec", "CONTAINER COMMAND [ARG...]", (2, None), interspersed=False)
@switch("-d", "--detach", help="Leave it running, print nothing")
@flag("--detach-keys", default="", help="Keys that leave it running")
@flag("-e", "--env", multiple=True, kind=ENVIRONMENT, help="Environment variable, name=value")
@flag("--env-file", multiple=True, help="File of environment variables, one a line")
@switch("-i", "--interactive", help="Keep standard input open")
@switch("--privileged", help="All capabilities that the container's user namespace has")
@switch("-t", "--tty", help="Give it a terminal")
@flag("-u", "--user", default="", help="User, and group: name|uid[:group|gid]")
@flag("-w", "--workdir", default="", help="Directory to start in")
def command(
    invocation: Invocation,
    args: tuple[str, ...],
    detach: bool,
    detach_keys: str,
    env: tuple[str, ...],
    env_file: tuple[str, ...],
    interactive: bool,
    privileged: bool,
    tty: bool,
    user: str,
    workdir: str,
) -> int:
    """Run a further command in a running container"""
    client = invocation.client
    if not detach and (complaint := check_terminal(interactive, tty)):
        invocation.complain(complaint)
        return 1
    body = {
        "User": user,
        "Privileged": privileged,
        "Tty": tty,
        "AttachStdin": interactive and not detach,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "DetachKeys": detach_keys,
        "Env": environment_list(env_file, env, invocation.environment),
        "WorkingDir": workdir,
        "Cmd": list(args[1:]),
    }
    rows, columns = size(STDOUT_FD)
    console = {"ConsoleSize": [rows, columns]} if tty and rows else {}
    identity = segment(client.call("POST", f"/containers/{segment(args[0])}/exec", value={**body, **console})["Id"])
    started = {"Detach": detach, "Tty": tty, **console}
    try:
        if detach:
            client.call("POST", f"/exec/{identity}/start", value=started)
            return 0
        session = Session(
            tty,
            interactive,
            detach_keys,
            resize=lambda rows, columns: client.call("POST", f"/exec/{identity}/resize", {"h": rows, "w": columns}),
            forward=None,
        )
        with session.prepared() as prepared:
            stream = client.hijack(f"/exec/{identity}/start", value=started)
            prepared.fit()
            if prepared.run(stream, None):
                return 0
    except ApiError as error:
        if error.status in (400, 500):
            raise start_failure(error, click.get_current_context().command_path, fallback=1) from error
        raise
    try:
        return int(client.call("GET", f"/exec/{identity}/json").get("ExitCode") or 0)
    except ApiError as error:
        if error.status != 404:
            raise
        raise CommandFailed(
            "the engine was lost while the command ran: it goes on in the container, but "
            "its output and exit code are not known",
            FAILED,
        ) from error
