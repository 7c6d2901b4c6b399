"""Starting an engine: here a small program that stands in for it, with the lock and the log of a real one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rootless.client.engine_start import start_engine, takes_connections
from rootless.model.errors import RootlessError
from rootless.settings import Settings, load
from rootless.store import process_lock

ENGINE = """#!/bin/sh
exec {python} -c '
import os, socket, sys, time
sys.path.insert(0, "{tree}")
from rootless.store import process_lock
with open("{starts}", "a") as f: f.write("x")
from pathlib import Path
lock = process_lock.take(Path("{lock}"), "{socket}")
if lock is None: sys.exit(0)
time.sleep(0.3)
s = socket.socket(socket.AF_UNIX)
s.bind("{socket}")
s.listen(8)
while True:
    connection, _ = s.accept()
    if connection.recv(9) == b"end": sys.exit(0)
'
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = load({"HOME": str(tmp_path), "ROOTLESS_RUNTIME_DIR": str(tmp_path / "run")})
    made.state_root.mkdir(parents=True)
    return made


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    program = tmp_path / "python"
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def engine_text(settings: Settings, starts: Path) -> str:
    tree = Path(__file__).parents[2]
    return ENGINE.format(
        python=sys.executable, tree=tree, starts=starts, lock=settings.engine_lock, socket=settings.api_socket
    )


def end(settings: Settings) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(settings.api_socket))
        connection.sendall(b"end")


def test_two_at_once_are_served_by_one(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, engine_text(settings, tmp_path / "starts"))
    threads = [threading.Thread(target=start_engine, args=(settings,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert takes_connections(settings)
    end(settings)


def test_one_that_is_starting_is_waited_for(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.runtime_dir.mkdir(mode=0o700)
    stand_in(tmp_path, monkeypatch, engine_text(settings, tmp_path / "starts"))
    with subprocess.Popen([sys.executable]):
        while process_lock.holder(settings.engine_lock) is None:
            pass
        start_engine(settings)
        assert (tmp_path / "starts").read_text() == "x"
        end(settings)


def test_only_what_this_start_wrote_is_in_the_error(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.runtime_dir.mkdir(mode=0o700)
    settings.engine_log.write_text("of yesterday\n")
    stand_in(tmp_path, monkeypatch, f"#!/bin/sh\necho 'no /dev/fuse here' >>{settings.engine_log}\nexit 1\n")
    with pytest.raises(RootlessError, match="could not start: no /dev/fuse here"):
        start_engine(settings)


def test_an_engine_that_listens_elsewhere_is_named(settings: Settings, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from rootless.store import process_lock\n"
        f"fd = process_lock.take(Path({str(settings.engine_lock)!r}), '/run/other/docker.sock')\n"
        "print(flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(RootlessError, match=rf"in use by another engine \(process {other.pid}.*/run/other"):
            start_engine(settings)
        other.kill()
