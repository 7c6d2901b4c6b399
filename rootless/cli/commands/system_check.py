"""`rootless system check`."""

from __future__ import annotations

import os

from rootless.cli.command import command as declare
from rootless.cli.command import switch
from rootless.cli.invocation import Invocation
from rootless.cli.pulling import checked


@declare("check")
@switch("-q", "--quiet", help="Only what is wrong")
@switch("--repair", help="Mend what can be mended; what is damaged beyond that is taken away, so that a pull brings it")
def command(invocation: Invocation, args: tuple[str, ...], quiet: bool, repair: bool) -> int:
    """Verify every file of every image in the store; exit code 1 where something is wrong and not mended"""
    response = invocation.client.open("POST", "/rootless/check", {"repair": repair})
    left = 0
    for message in checked(response.json_lines()):
        if "problem" in message:
            invocation.say(message["problem"])
            left += not message["mended"]
        elif "status" in message and not quiet and os.isatty(2):
            invocation.complain(message["status"])
        elif "summary" in message and not quiet:
            invocation.say(message["summary"])
    return 1 if left else 0
