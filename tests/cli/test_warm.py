"""The warm command line: it cannot be told from the cold one, and is not used where it could be."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.warm_probe import SCRIPT

TOP = SCRIPT.parent.parent
PROBE = Path(__file__).parent / "warm_probe.py"


def environment(runtime_dir: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ROOTLESS_", "DOCKER_", "XDG_"))}
    return {**kept, "PYTHONPATH": str(TOP), "ROOTLESS_RUNTIME_DIR": str(runtime_dir), **more}


@pytest.fixture(scope="module")
def runtime_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("warm")
    server = subprocess.Popen(
        [sys.executable, str(PROBE), "serve", str(directory / "warm.sock")], env=environment(directory)
    )
    end = time.monotonic() + 30
    while not (directory / "warm.sock").exists():
        assert server.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    yield directory
    server.kill()
    server.wait()


def warm(runtime_dir: Path, *words: str, **options: object) -> subprocess.Popen[bytes]:
    more = options.pop("more", {})
    assert isinstance(more, dict)
    defaults = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, str(SCRIPT), *words], env=environment(runtime_dir, **more), **{**defaults, **options}
    )


def finished(process: subprocess.Popen[bytes], stdin: bytes | None = None) -> tuple[int, str, str]:
    out, err = process.communicate(stdin, timeout=60)
    return process.returncode, out.decode(), err.decode()


def peculiar() -> None:
    """A process state that none of ours has by itself."""
    os.umask(0o027)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 7, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    os.nice(3)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@pytest.mark.parametrize("prepare", [None, peculiar])
def test_the_process_is_as_it_would_have_been(
    runtime_dir: Path, tmp_path: Path, prepare: Callable[[], None] | None
) -> None:
    words = ["state", "an argument", "\udcff", ""]
    more = {"TZ": "Asia/Tokyo", "A": "\udcfe", "EMPTY": ""}
    found = []
    for program in ([sys.executable, str(SCRIPT)], [sys.executable, str(PROBE), "cold"]):
        process = subprocess.Popen(
            [*program, *words],
            env=environment(runtime_dir, **more),
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=prepare,
        )
        out, _ = process.communicate(b"typed\n", timeout=60)
        found.append(json.loads(out))
    assert found[0] == found[1]
    assert found[0]["input"] == "typed\n"


def test_it_is_warm(runtime_dir: Path) -> None:
    assert finished(warm(runtime_dir, "where")) == (0, "warm\n", "")


@pytest.mark.parametrize(
    ("words", "more"),
    [
        (["where"], {"ROOTLESS_WARM": "0"}),
        (["where"], {"DOCKER_HOST": "unix:///nowhere"}),
        (["where"], {"PYTHONHASHSEED": "1"}),  # another interpreter than the server's
        (["where", "/dev/fd/3"], {}),
        (["-H", "unix:///nowhere", "ps"], {}),
    ],
)
def test_what_is_not_for_the_server(runtime_dir: Path, words: list[str], more: dict[str, str]) -> None:
    """The real command line runs in the script then, and knows no `where`."""
    code, _, err = finished(warm(runtime_dir, *words, more=more))
    assert code == 1
    assert "is not a rootless command" in err or "Cannot connect" in err


def test_without_a_server_it_runs_here(tmp_path: Path) -> None:
    assert "is not a rootless command" in finished(warm(tmp_path, "where"))[2]


def test_a_terminal_is_read_by_its_own_session_only(runtime_dir: Path) -> None:
    ours, theirs = os.openpty()
    for words, text in ((["run", "-it", "x"], "ROOTLESS_IDLE_SECONDS"), (["images", "x", "y"], "")):
        code, out, err = finished(warm(runtime_dir, *words, stdin=theirs, more={"ROOTLESS_IDLE_SECONDS": "x"}))
        if text:
            assert (code != 0, text in err) == (True, True), (out, err)  # cold: the real `run`, which starts no engine
        else:
            assert (code, out, err) == (0, "", "")  # warm: the probe, which does nothing for unknown words
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(
    ("words", "code", "err"),
    [
        (["exit", "7"], 7, ""),
        (["exit", "0"], 0, ""),
        (["leave", "why"], 1, "why\n"),
        (["raise"], 1, "ValueError: on purpose\n"),
        (["die", "15"], -15, ""),
        (["die", "9"], -9, ""),
        (["die", "13"], -13, ""),
    ],
)
def test_it_ends_as_the_command_ends(runtime_dir: Path, words: list[str], code: int, err: str) -> None:
    done = finished(warm(runtime_dir, *words))
    assert done[0] == code
    assert done[2].endswith(err)


def test_signals_arrive_and_their_effect_comes_back(runtime_dir: Path) -> None:
    process = warm(runtime_dir, "catch")
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert finished(process) == (6, "caught\n", "")
    process = warm(runtime_dir, "sleep")
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) in (-signal.SIGINT, 1, 130)


def test_a_stop_stops_both_and_both_go_on(runtime_dir: Path) -> None:
    process = warm(runtime_dir, "catch", start_new_session=False, process_group=0)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTSTP)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert os.WSTOPSIG(status) == signal.SIGTSTP
    process.send_signal(signal.SIGCONT)
    assert process.stdout.readline() == b"goes on\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 6
    process.stdout.close()


def test_a_client_that_is_killed_takes_the_command_with_it(runtime_dir: Path) -> None:
    process = warm(runtime_dir, "sleep")
    assert process.stdout
    command = os.pidfd_open(int(process.stdout.readline()))
    process.kill()
    process.wait()
    assert select.select([command], [], [], 30)[0]
    os.close(command)


def test_the_script_is_the_one_that_is_installed() -> None:
    assert SCRIPT.read_text().startswith("#!python\n")
    assert os.access(SCRIPT, os.X_OK)


def test_a_server_that_is_just_leaving(tmp_path: Path) -> None:
    """It takes the connection and ends before a command has begun: the command line runs here."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "warm.sock"))
        listener.listen()
        process = warm(tmp_path, "where")
        listener.accept()[0].close()
        assert "is not a rootless command" in finished(process)[2]


def test_a_signal_that_comes_with_the_request_is_sent_on(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "warm.sock"))
    listener.listen(1)
    for _ in range(10):
        process = warm(tmp_path, "ps")
        connection, _ = listener.accept()
        connection.recv(1 << 20)
        process.send_signal(signal.SIGTERM)  # the client may not have come back from its send yet
        sleeper = subprocess.Popen(["sleep", "60"])
        connection.send(b"P%d\n" % sleeper.pid)
        assert sleeper.wait(30) == -signal.SIGTERM
        connection.send(b"X6\n")
        assert finished(process)[0] == 6
        connection.close()
    listener.close()
