"""Starts a launcher for the engine and waits until it listens. Blocking: call it in a thread."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from rootless.model.errors import RootlessError
from rootless.settings import Settings

START_SECONDS = 20.0


def start_launcher(settings: Settings) -> None:
    """Start a launcher and wait for it. Raises RootlessError with the end of its log where it leaves instead."""
    await_launcher(settings, spawn_launcher(settings))


def spawn_launcher(settings: Settings) -> subprocess.Popen[bytes]:
    """Start `python -m rootless.launcher`, detached, and do not wait. Raises OSError."""
    environment = {
        **os.environ,
        "ROOTLESS_RUNTIME_DIR": str(settings.runtime_dir),
        "ROOTLESS_DATA_ROOT": str(settings.data_root),
        "ROOTLESS_STATE_ROOT": str(settings.state_root),
    }
    with open(_log_path(settings), "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "rootless.launcher"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


def await_launcher(settings: Settings, started: subprocess.Popen[bytes]) -> None:
    """Until its socket is there. Raises RootlessError."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if listens(settings):
            return
        if started.poll() is not None:
            text = _log_path(settings).read_text(errors="replace").strip()[-2000:]
            raise RootlessError(f"the launcher could not start: {text or f'exit code {started.returncode}'}")
        time.sleep(0.002)
    started.kill()
    raise RootlessError(f"the launcher does not listen after {START_SECONDS:.0f} s; see {_log_path(settings)}")


def _log_path(settings: Settings) -> Path:
    return settings.runtime_dir / "launcher.log"


def listens(settings: Settings) -> bool:
    """Whether a launcher takes connections."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(str(settings.launcher_socket))
        except OSError:
            return False
        return True
