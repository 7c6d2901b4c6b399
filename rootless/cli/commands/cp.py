"""`rootless cp`."""

from __future__ import annotations

from rootless.cli import copying
from rootless.cli.command import command as declare
from rootless.cli.command import switch
from rootless.cli.invocation import Invocation
from rootless.model.errors import InvalidParameter


@declare("cp", "CONTAINER:SRC_PATH DEST_PATH|- | SRC_PATH|- CONTAINER:DEST_PATH", (2, 2))
@switch("-a", "--archive", help="Keep owners and groups")
@switch("-L", "--follow-link", help="Copy what the source links to, not the link")
@switch("-q", "--quiet", help="No word about what was copied")
def command(invocation: Invocation, args: tuple[str, ...], archive: bool, follow_link: bool, quiet: bool) -> None:
    """Copy files between a container and this host; `-` stands for a tar archive on standard input or output"""
    source_container, source = copying.split(args[0])
    target_container, target = copying.split(args[1])
    if not source:
        raise InvalidParameter("source can not be empty")
    if not target:
        raise InvalidParameter("destination can not be empty")
    if source_container and target_container:
        raise InvalidParameter("copying between containers is not supported")
    if source_container:
        done = copying.from_container(invocation.client, source_container, source, target, follow_link)
    elif target_container:
        done = copying.to_container(invocation.client, source, target_container, target, follow_link, archive)
    else:
        raise InvalidParameter("must specify at least one container source")
    if done and not quiet:
        invocation.complain(done)
