"""Whole command lines, each a process of its own, against a stand-in engine: requests, output, exit codes."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rootless.cli.manifest_lists import Lists
from rootless.client.frames import STDERR, STDOUT, frame
from rootless.client.testing import Answer, FakeEngine, Received
from rootless.model import reference
from rootless.registry.lists import Member
from rootless.registry.media import DOCKER_MANIFEST

ID = "abc123" + "0" * 58
TOP = Path(__file__).parent.parent.parent


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "api.sock") as engine:
        yield engine


def argv(engine: FakeEngine, words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "rootless.cli", "-H", f"unix://{engine.path}", *words]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(TOP), **more}


def rootless(engine: FakeEngine, *words: str, stdin: bytes = b"") -> tuple[int, str, str]:
    done = subprocess.run(argv(engine, words), input=stdin, capture_output=True, timeout=60, env=environment())
    return done.returncode, done.stdout.decode(), done.stderr.decode()


class Container:
    """A container in the stand-in: what is attached to it, and its end."""

    def __init__(self, engine: FakeEngine, code: int, write: list[tuple[int, bytes]], tty: bool = False) -> None:
        self.started, self.ended = threading.Event(), threading.Event()
        self.order: list[str] = []
        self.input = b""
        self.code, self.write, self.tty = code, write, tty
        engine.answers |= {
            "POST /containers/create": Answer({"Id": ID, "Warnings": ["it is cold"]}, 201),
            f"POST /containers/{ID}/attach": Answer(takeover=self.attach),
            f"POST /containers/{ID}/start": self.start,
            f"POST /containers/{ID}/wait": self.wait,
            f"POST /containers/{ID}/kill": self.kill,
            f"POST /containers/{ID}/resize": Answer({}),
        }

    def start(self, request: Received) -> Answer:
        self.order.append("start")
        self.started.set()
        return Answer(status=204)

    def wait(self, request: Received) -> Answer:
        # a real engine answers with the head at once; that order is tested against it
        self.order.append("wait " + request.query["condition"][0])
        return Answer({"StatusCode": self.code})

    def kill(self, request: Received) -> Answer:
        self.order.append("kill " + request.query["signal"][0])
        self.ended.set()
        return Answer(status=204)

    def attach(self, connection: socket.socket) -> None:
        self.started.wait(30)
        for stream, data in self.write:
            connection.sendall(data if self.tty else frame(stream, data))
        while data := connection.recv(1 << 16):
            self.input += data
            if self.tty and data.endswith(b"\x10\x11"):
                return
        if not self.tty:
            connection.sendall(frame(STDOUT, self.input))


def test_run_attached(engine: FakeEngine) -> None:
    container = Container(engine, 7, [(STDOUT, b"out\n"), (STDERR, b"err\n")])
    data = b"x" * 3_000_000
    words = ["run", "-i", "--rm", "-e", "A=b", "-v", "./v:/v", "-p", "8080:80", "--name", "n", "debian", "cat", "-n"]
    code, out, err = rootless(engine, *words, stdin=data)
    assert (code, err) == (7, "WARNING: it is cold\nerr\n")
    assert out == "out\n" + data.decode()
    assert [request.path.rpartition("/")[2] for request in engine.received] == ["create", "attach", "wait", "start"]
    assert container.order == ["wait removed", "start"]
    request = engine.requests("POST", "/containers/create")[0]
    body = request.value
    assert request.query == {"name": ["n"]}
    assert (body["Image"], body["Cmd"], body["Env"], body["OpenStdin"]) == ("debian", ["cat", "-n"], ["A=b"], True)
    assert body["HostConfig"]["Binds"] == [f"{os.getcwd()}/v:/v"]
    assert body["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}
    assert body["HostConfig"]["AutoRemove"] is True


def test_run_detached_prints_the_id(engine: FakeEngine) -> None:
    container = Container(engine, 0, [])
    assert rootless(engine, "run", "-d", "debian")[:2] == (0, ID + "\n")
    assert container.order == ["start"]


def test_run_pulls_what_is_missing_and_tries_again(engine: FakeEngine) -> None:
    Container(engine, 0, [])
    made = engine.answers["POST /containers/create"]
    assert isinstance(made, Answer)
    answers = iter([Answer({"message": "No such image: debian:latest"}, 404), made])
    engine.answers["POST /containers/create"] = lambda request: next(answers)
    engine.answers["POST /images/create"] = Answer(raw=b'{"status":"Pulling","id":"latest"}\n{"status":"Done"}\n')
    code, out, err = rootless(engine, "run", "-d", "debian")
    assert (code, out) == (0, ID + "\n")
    assert err == "Unable to find image 'debian:latest' locally\nlatest: Pulling\nDone\nWARNING: it is cold\n"
    assert engine.requests("POST", "/images/create")[0].query == {"fromImage": ["debian"], "tag": ["latest"]}


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('exec: "nope": executable file not found in $PATH', 127),
        ('exec: "/x": permission denied', 126),
        ("driver failed: port is already allocated", 125),
    ],
)
def test_a_container_that_does_not_start(engine: FakeEngine, message: str, code: int) -> None:
    Container(engine, 0, [])
    engine.answers[f"POST /containers/{ID}/start"] = Answer({"message": message}, 500)
    done = rootless(engine, "run", "debian", "nope")
    assert done[0] == code
    assert f"rootless: Error response from daemon: {message}\n\nSee 'rootless run --help'." in done[2]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (
            ["run", "--nope", "x"],
            125,
            "unknown flag: --nope\n\nUsage:  rootless run [OPTIONS] IMAGE [COMMAND] [ARG...]",
        ),
        (["run", "-m", "xx", "x"], 125, 'invalid argument "xx" for "-m, --memory" flag: invalid size: \'xx\''),
        (["run", "-p", "70000:80", "x"], 125, "rootless: invalid hostPort: 70000\n\nSee 'rootless run --help'."),
        (["run", "--rm", "--restart", "always", "x"], 125, "cannot specify both --restart and --rm"),
        (["run", "-it", "x"], 1, "the input device is not a TTY"),
        (["run"], 1, "rootless: 'rootless run' requires at least 1 argument"),
        (["ps", "x"], 1, "rootless: 'rootless ps' accepts no arguments"),
        (["nope"], 1, "rootless: 'nope' is not a rootless command"),
        (["container", "nope"], 1, "rootless: 'nope' is not a rootless container command"),
        (["rm", "gone"], 1, "Error response from daemon: page not found"),
        (["logs", "--since", "zz", "x"], 1, "Error response from daemon"),
        (["inspect", "nope"], 1, "Error: No such object: nope"),
    ],
)
def test_complaints_and_exit_codes(engine: FakeEngine, words: list[str], code: int, text: str) -> None:
    done = rootless(engine, *words)
    assert done[0] == code
    assert text in done[2]


@pytest.mark.parametrize("pull", ["missing", "always"])
@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("", "invalid reference format"),
        ("UPPER", "invalid reference format: repository name (library/UPPER) must be lowercase"),
        ("bb:", "invalid reference format"),
        ("a b", "invalid reference format"),
    ],
)
def test_what_can_be_no_image(engine: FakeEngine, image: str, text: str, pull: str) -> None:
    """docker's `create` and `run` end differently."""
    engine.answers["POST /containers/create"] = Answer({"message": f"No such image: {image}"}, 404)
    assert rootless(engine, "create", "--pull", pull, image)[0] == 1
    code, out, err = rootless(engine, "run", "--pull", pull, image)
    assert (code, out) == (125, "")
    assert err.startswith(f"rootless: {text}")
    assert rootless(engine, "create", "--pull", pull, image)[2].startswith(text)
    assert rootless(engine, "create", "--pull", "sometimes", image)[0] == 125


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arch", "bogus"], "linux/bogus"),
        (["--os", "bogus"], "bogus/amd64"),
        (["--os", "windows", "--arch", "s390x"], "windows/s390x"),
        (["--variant", "v8", "--arch", "arm64"], ""),
        (["--os", "windows"], ""),
        (["--os-version", "1"], ""),
    ],
)
def test_platforms_that_a_manifest_list_may_say(
    engine: FakeEngine, tmp_path: Path, words: list[str], said: str
) -> None:
    lists, name, image = Lists(tmp_path), reference.parse("all:1"), reference.parse("one:1")
    lists.put(name, Member(image, DOCKER_MANIFEST, b"{}", {"os": "linux", "architecture": "amd64"}))
    code, _, err = rootless(engine, "--config", str(tmp_path), "manifest", "annotate", *words, "all:1", "one:1")
    platform = lists.members(name)[0].platform
    if said:
        assert (code, err) == (1, f"manifest entry for image has unsupported os/arch combination: {said}\n")
        assert platform == {"os": "linux", "architecture": "amd64"}
    else:
        assert (code, err) == (0, "")
        assert platform != {"os": "linux", "architecture": "amd64"}


def test_help_names_every_flag(engine: FakeEngine) -> None:
    code, out, _ = rootless(engine, "run", "--help")
    assert code == 0
    assert "  -m, --memory bytes" in out
    assert "Usage:  rootless run [OPTIONS] IMAGE [COMMAND] [ARG...]" in out
    assert "  run " in rootless(engine)[1]


def test_every_command_is_there_and_has_help() -> None:
    import click

    from rootless.cli import table
    from rootless.cli.program import root

    for entries in (table.COMMANDS, table.CONTAINER, table.IMAGE, table.VOLUME, table.NETWORK, table.SYSTEM):
        for entry in entries.values():
            found = __import__(f"rootless.cli.commands.{entry.module}", fromlist=["command"]).command
            context = click.Context(found, info_name="x", parent=click.Context(root(), info_name="rootless"))
            assert found.get_help(context).startswith("Usage:  rootless x")


def test_inspect_logs_and_wait(engine: FakeEngine) -> None:
    engine.answers["GET /containers/x/json"] = Answer({"Id": ID, "Config": {"Tty": False}, "Names": None})
    engine.answers["GET /containers/x/logs"] = Answer(raw=frame(STDOUT, b"a\n") + frame(STDERR, b"b\n"))
    engine.answers["POST /containers/x/wait"] = Answer({"StatusCode": 3})
    assert rootless(engine, "logs", "--tail", "5", "x") == (0, "a\n", "b\n")
    assert engine.received[-1].query == {"stdout": ["1"], "stderr": ["1"], "tail": ["5"]}
    assert rootless(engine, "wait", "x", "y")[:2] == (1, "3\n")
    assert rootless(engine, "inspect", "-f", "{{.Id}}", "x")[1] == ID + "\n"
    assert rootless(engine, "inspect", "x")[1].startswith('[\n    {\n        "Id": "abc')


def test_a_signal_goes_to_the_container(engine: FakeEngine) -> None:
    container = Container(engine, 6, [(STDOUT, b"ready\n")])
    running = subprocess.Popen(argv(engine, ["run", "debian"]), stdout=subprocess.PIPE, env=environment())
    assert running.stdout
    assert running.stdout.readline() == b"ready\n"
    running.send_signal(signal.SIGTERM)
    assert container.ended.wait(30)
    running.send_signal(signal.SIGKILL)
    running.wait(30)
    running.stdout.close()
    assert f"kill {int(signal.SIGTERM)}" in container.order


def test_an_engine_that_dies_is_an_error(engine: FakeEngine) -> None:
    Container(engine, 0, [])
    engine.answers[f"POST /containers/{ID}/attach"] = Answer(takeover=lambda connection: None)
    engine.answers[f"POST /containers/{ID}/wait"] = Answer(raw=b"", cut=True)
    code, _, err = rootless(engine, "run", "debian")
    assert code == 125
    assert "lost the connection to the engine" in err


def open_terminal() -> tuple[int, int]:
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (33, 77))
    return ours, theirs


def read_until(fd: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        assert select.select([fd], [], [], 30)[0], f"no {wanted!r} in {seen!r}"
        seen += os.read(fd, 4096)
    return seen


@pytest.mark.parametrize("how", ["detach", "SIGTERM", "SIGHUP"])
def test_the_terminal_is_raw_and_always_restored(engine: FakeEngine, how: str) -> None:
    container = Container(engine, 0, [(STDOUT, b"# ")], tty=True)
    ours, theirs = open_terminal()
    before = termios.tcgetattr(theirs)
    words = ["run", "-it", "debian"]
    running = subprocess.Popen(
        argv(engine, words), stdin=theirs, stdout=theirs, stderr=theirs, env=environment(), start_new_session=True
    )
    read_until(ours, b"# ")
    during: list[Any] = termios.tcgetattr(theirs)
    assert not during[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    if how == "detach":
        os.write(ours, b"x\x10\x11")
        assert running.wait(30) == 0
        assert container.input == b"x\x10\x11"
    else:
        running.send_signal(signal.Signals[how])
        assert running.wait(30) == -signal.Signals[how]
    assert termios.tcgetattr(theirs) == before
    assert {"h": ["33"], "w": ["77"]} in [request.query for request in engine.received]
    os.close(ours)
    os.close(theirs)
