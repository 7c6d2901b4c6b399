"""Starting an engine: here a small program that stands in for it."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from rootless.client.engine_start import start_engine, takes_connections
from rootless.model.errors import RootlessError
from rootless.settings import Settings, load

ENGINE = """#!/bin/sh
exec {python} -c '
import os, socket, sys
with open("{starts}", "a") as f: f.write("x")
s = socket.socket(socket.AF_UNIX)
s.bind("{socket}")
s.listen(8)
connection, _ = s.accept()
while True:
    connection, _ = s.accept()
    if connection.recv(9) == b"end": sys.exit(0)
'
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load({"HOME": str(tmp_path), "ROOTLESS_RUNTIME_DIR": str(tmp_path / "run")})


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    program = tmp_path / "python"
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def end(settings: Settings) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(settings.api_socket))
        connection.sendall(b"end")


def test_two_at_once_start_one(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = tmp_path / "starts"
    text = ENGINE.format(python=sys.executable, starts=starts, socket=settings.api_socket)
    stand_in(tmp_path, monkeypatch, text)
    threads = [threading.Thread(target=start_engine, args=(settings,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert takes_connections(settings)
    assert starts.read_text() == "x"
    end(settings)


def test_the_end_of_the_log_is_in_the_error(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "#!/bin/sh\necho 'no /dev/fuse here' >&2\nexit 1\n")
    with pytest.raises(RootlessError, match="could not start: no /dev/fuse here"):
        start_engine(settings)
