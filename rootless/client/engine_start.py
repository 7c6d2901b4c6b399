"""Starts the user's engine, detached, and waits until it answers. Called by `client`, when a command finds no engine.

Two commands may do this at the same time: a lock file lets one of them start it, the other waits for the lock and finds
the socket there."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time

from rootless.model.errors import RootlessError
from rootless.settings import Settings, ensure_runtime_dir

START_SECONDS = 30.0
POLL_SECONDS = 0.003
LOG_TAIL_BYTES = 2000


def start_engine(settings: Settings) -> None:
    """Return when an engine takes connections. Raises RootlessError with the end of its log where it does not."""
    ensure_runtime_dir(settings)
    lock = os.open(settings.runtime_dir / "engine-start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not takes_connections(settings):
            _await(settings, _spawn(settings))
    finally:
        os.close(lock)


def takes_connections(settings: Settings) -> bool:
    """Whether somebody listens on the API's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(settings.api_socket))
        except OSError:
            return False
    return True


def _spawn(settings: Settings) -> subprocess.Popen[bytes]:
    # it reads the same environment and so the same settings, and can say where each came from
    with open(settings.runtime_dir / "engine.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "rootless.engine"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )


def _await(settings: Settings, started: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if takes_connections(settings):
            started.returncode = 0  # it outlives us: Popen is not to wait for it, nor to warn
            return
        if started.poll() is not None and not takes_connections(settings):
            log = _log_tail(settings)
            raise RootlessError(f"the engine could not start: {log or f'exit code {started.returncode}, no message'}")
        time.sleep(POLL_SECONDS)
    raise RootlessError(
        f"the engine does not listen after {START_SECONDS:.0f} s; see {settings.runtime_dir / 'engine.log'}"
    )


def _log_tail(settings: Settings) -> str:
    try:
        with open(settings.runtime_dir / "engine.log", "rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip()
    except OSError:
        return ""
