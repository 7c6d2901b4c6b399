"""Starts a launcher for the engine and waits until it listens. Blocking: call it in a thread."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

from rootless.model.errors import RootlessError
from rootless.settings import Settings

START_SECONDS = 20.0


def start_launcher(settings: Settings) -> None:
    """Start `python -m rootless.launcher`, detached, and wait for its socket. Raises RootlessError with the end of its
    log where it leaves instead."""
    log_path = settings.runtime_dir / "launcher.log"
    environment = {
        **os.environ,
        "ROOTLESS_RUNTIME_DIR": str(settings.runtime_dir),
        "ROOTLESS_DATA_ROOT": str(settings.data_root),
        "ROOTLESS_STATE_ROOT": str(settings.state_root),
    }
    with open(log_path, "wb") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", "rootless.launcher"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if listens(settings):
            return
        if started.poll() is not None:
            text = log_path.read_text(errors="replace").strip()[-2000:]
            raise RootlessError(f"the launcher could not start: {text or f'exit code {started.returncode}'}")
        time.sleep(0.002)
    started.kill()
    raise RootlessError(f"the launcher does not listen after {START_SECONDS:.0f} s; see {log_path}")


def listens(settings: Settings) -> bool:
    """Whether a launcher takes connections."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(str(settings.launcher_socket))
        except OSError:
            return False
        return True
