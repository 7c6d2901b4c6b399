"""Whether an engine runs, asked without starting one."""

from __future__ import annotations

import time
from dataclasses import replace

from rootless.cli.invocation import Invocation
from rootless.client import Client
from rootless.model.errors import RootlessError, Unavailable

STOP_SECONDS = 30.0


def running_client(invocation: Invocation) -> Client | None:
    """A client that starts nothing; None where no engine takes connections."""
    client = Client(replace(invocation.client.endpoint, settings=None))
    try:
        client.connect().close()
    except Unavailable:
        return None
    return client


def wait_until_gone(invocation: Invocation) -> bool:
    """Wait until no engine takes connections. Raises RootlessError where one still does."""
    end = time.monotonic() + STOP_SECONDS
    while running_client(invocation) is not None:
        if time.monotonic() > end:
            raise RootlessError(f"the engine still runs after {STOP_SECONDS:.0f} s")
        time.sleep(0.005)
    return True
