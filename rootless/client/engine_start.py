"""Starts the user's engine, detached, and waits until it answers. Called by `client`, when a command finds no engine.

Who starts it does not matter: two commands at the same time, bin/rootless ahead of its own imports, somebody in the
foreground. An engine that finds the state root taken leaves without a word (see engine.__main__); we wait for the one
that has it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

from rootless.model.errors import RootlessError
from rootless.settings import Settings, ensure_runtime_dir
from rootless.store import process_lock

START_SECONDS = 30.0
POLL_SECONDS = 0.003
LOG_TAIL_BYTES = 2000


def start_engine(settings: Settings) -> None:
    """Return when an engine takes connections. Raises RootlessError with what it wrote to its log where it does not."""
    ensure_runtime_dir(settings)
    log_bytes = _log_bytes(settings)
    started: subprocess.Popen[bytes] | None = None
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if takes_connections(settings):
            if started is not None:
                started.returncode = 0  # it outlives us: Popen is not to wait for it, nor to warn
            return
        if (started is None or started.poll() is not None) and not _is_starting(settings):
            if started is not None and started.returncode:
                log = _log_since(settings, log_bytes) or f"exit code {started.returncode}, no message"
                raise RootlessError(f"the engine could not start: {log}")
            started = _spawn()
        time.sleep(POLL_SECONDS)
    raise RootlessError(f"the engine does not listen after {START_SECONDS:.0f} s; see {settings.engine_log}")


def takes_connections(settings: Settings) -> bool:
    """Whether somebody listens on the API's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(settings.api_socket))
        except OSError:
            return False
    return True


def _is_starting(settings: Settings) -> bool:
    """Whether an engine has the state root and will listen. Raises RootlessError where it listens somewhere else."""
    try:
        other = process_lock.holder(settings.engine_lock)
    except OSError as error:
        raise RootlessError(f"cannot read {settings.engine_lock}: {error.strerror}") from error
    if other is not None and other.text is not None and other.text != str(settings.api_socket):
        raise RootlessError(
            f"the state root {settings.state_root} is in use by another engine (process {other.pid}, which listens on "
            f"{other.text}): use that one (rootless -H unix://{other.text}), or set ROOTLESS_STATE_ROOT"
        )
    return other is not None


def _spawn() -> subprocess.Popen[bytes]:
    # it reads the same environment and so the same settings, and can say where each came from
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "rootless.engine", "--detached"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _log_bytes(settings: Settings) -> int:
    try:
        return settings.engine_log.stat().st_size
    except OSError:
        return 0


def _log_since(settings: Settings, start: int) -> str:
    try:
        with open(settings.engine_log, "rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(start if start <= size else 0, size - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip()
    except OSError:
        return ""
