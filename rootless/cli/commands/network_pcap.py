"""`rootless network pcap`."""

from __future__ import annotations

import os

from rootless.cli.command import command as declare
from rootless.cli.command import flag
from rootless.cli.invocation import Invocation
from rootless.cli.output import STDOUT_FD, write_all
from rootless.client.client import segment
from rootless.model.errors import InvalidParameter


@declare("pcap", "NETWORK", (1, 1))
@flag("-o", "--output", help="File to write in place of standard output")
def command(invocation: Invocation, args: tuple[str, ...], output: str | None) -> None:
    """Write what passes on a network as a capture for tshark, until interrupted"""
    if output is None and os.isatty(STDOUT_FD):
        raise InvalidParameter("a capture is nothing for a terminal. Use the -o flag, or pipe it: | tshark -r -")
    response = invocation.client.open("GET", f"/networks/{segment(args[0])}/pcap")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    fd = STDOUT_FD if output is None else os.open(output, flags, 0o600)
    for data in response.chunks():
        write_all(fd, data)
