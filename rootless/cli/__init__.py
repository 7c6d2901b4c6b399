"""The command line: docker's commands and flags, click underneath, everything through the Engine API.

Owns words in, text out, exit codes, the terminal. Leaves every decision about containers to the engine.
Called by: bin/rootless (in its own process, or through the warm server of `rootless.cli.warm`)."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name); returns the exit code."""
    import sys

    from rootless.cli.program import run

    return run(sys.argv[1:] if argv is None else argv)
