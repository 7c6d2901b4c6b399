"""The command line's server is started with the launcher, and ends with it however early that is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_LAUNCHER = """
import os, sys, time, types
from pathlib import Path
from rootless.cli import warm
from rootless.launcher import __main__ as launcher

class Late:
    # PR_SET_PDEATHSIG is asked for when the launcher has gone, if it goes
    def __init__(self, name): pass
    def prctl(self, *words):
        until = time.monotonic() + 60 if sys.argv[2] == "0" else 0
        while os.getppid() == started_by and time.monotonic() < until:
            time.sleep(0.01)

def serve(listener):
    Path(sys.argv[1], "served").touch()

started_by = os.getpid()
launcher.ctypes.PyDLL = Late
warm.serve_warm = serve
launcher._warm_command_line(types.SimpleNamespace(warm_socket=Path(sys.argv[1], "warm.sock")))
time.sleep(float(sys.argv[2]))
"""


def served(directory: Path, launcher_lives_seconds: float) -> bool:
    command = [sys.executable, "-c", _LAUNCHER, str(directory), str(launcher_lives_seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60)  # the end of its output is its end
    assert done.stdout == b""
    return (directory / "served").exists()


def test_it_serves_beside_a_launcher_that_lives(tmp_path: Path) -> None:
    assert served(tmp_path, 2)


def test_it_does_not_outlive_a_launcher_that_dies_at_once(tmp_path: Path) -> None:
    assert not served(tmp_path, 0)
