"""The engine's start, by whoever comes first."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.busybox import busybox_tar
from tests.e2e.conftest import Installation


def test_modules_in_the_current_directory_are_not_ours(
    fresh: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("trio", "slirp", "rootless"):
        (tmp_path / f"{module}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    assert fresh.out("run", "--rm", "host", "echo", "hello") == "hello"
    assert not (tmp_path / "imported").exists()


def test_many_first_commands_get_one_engine(fresh: Installation) -> None:
    pids = []

    def ask() -> None:
        fresh("ps")
        pids.append(fresh.out("system", "status", "--format", "{{.EnginePid}}"))

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(pids) == 5
    assert len(set(pids)) == 1


def test_what_keeps_the_engine_from_starting_is_said_in_one_line(fresh: Installation, tmp_path: Path) -> None:
    done = fresh("images", check=None, ROOTLESS_ADDITIONAL_STORES=str(tmp_path / "absent"))
    assert done.returncode != 0
    said = done.stderr.decode()
    assert f"cannot use the additional store {tmp_path}/absent" in said
    assert "Traceback" not in said + (fresh.home / "run" / "engine.log").read_text()


def test_the_state_root_is_one_engines(fresh: Installation) -> None:
    fresh("ps")
    pid = fresh.out("system", "status", "--format", "{{.EnginePid}}")
    done = fresh("engine", check=1)
    assert f"another engine (process {pid}, listening on {fresh.socket}) has the state root" in done.stderr.decode()
    elsewhere = fresh("ps", check=1, ROOTLESS_RUNTIME_DIR=str(fresh.home / "run2"))
    assert f"in use by another engine (process {pid}" in elsewhere.stderr.decode()
    assert fresh.out("system", "status", "--format", "{{.EnginePid}}") == pid


def test_an_engine_with_containers_stops_only_by_force(fresh: Installation) -> None:
    fresh("import", "-", "busybox", stdin=busybox_tar())
    fresh("run", "-d", "--name", "works", "busybox", "/bin/sleep", "100")
    refused = fresh("system", "stop", check=1)
    assert b"a container is running (works)" in refused.stderr
    fresh("system", "stop", "-f")
    assert fresh.out("ps", "-a", "--format", "{{.Names}} {{.State}}") == "works exited"
