"""slirp4netns' API calls, with a network that notes what it is asked."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time

import pytest

from slirp import hostfwd
from slirp.hostfwd import HostForwards

DEEP = "[" * 950 + "]" * 950  # read, but not shown


class Asked:
    def __init__(self) -> None:
        self.commands: list[dict[str, object]] = []
        self.refuses = False

    def __call__(self, command: dict[str, object], fd: int) -> None:
        if fd >= 0:
            os.close(fd)
        if self.refuses:
            raise ValueError("the network refuses: no")
        self.commands.append(command)


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def forwards(asked: Asked) -> HostForwards:
    return HostForwards("10.0.2.100", asked)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def call(forwards: HostForwards, execute: str, **arguments: object) -> dict[str, object]:
    return forwards.call(json.dumps({"execute": execute, "arguments": arguments}).encode())


def test_a_port_is_added_listed_and_removed(forwards: HostForwards, asked: Asked) -> None:
    port = free_port()
    assert call(forwards, "add_hostfwd", proto="tcp", host_addr="127.0.0.1", host_port=port, guest_port=80) == {
        "return": {"id": 1}
    }
    assert asked.commands[0]["type"] == "Publish"
    assert (asked.commands[0]["guest_port"], asked.commands[0]["protocol"]) == (80, "tcp")
    entry = {"id": 1, "proto": "tcp", "host_addr": "127.0.0.1", "host_port": port}
    assert call(forwards, "list_hostfwd") == {
        "return": {"entries": [entry | {"guest_addr": "10.0.2.100", "guest_port": 80}]}
    }
    assert call(forwards, "remove_hostfwd", id=1) == {"return": {}}
    assert asked.commands[1] == {"type": "Unpublish", "publish_id": "1"}
    assert call(forwards, "list_hostfwd") == {"return": {"entries": []}}


@pytest.mark.parametrize(
    "request_text",
    [
        "",
        "nonsense",
        "[]",
        '{"execute": "fly"}',
        '{"execute": "add_hostfwd", "arguments": {"proto": "sctp", "host_port": 1, "guest_port": 1}}',
        '{"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_port": 70000, "guest_port": 1}}',
        '{"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_port": "80", "guest_port": 1}}',
        '{"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_addr": "x", "host_port": 80, "guest_port": 1}}',
        '{"execute": "add_hostfwd", "arguments": {"proto": "udp", "guest_addr": "1.2.3.4", "host_port": 8,'
        ' "guest_port": 1}}',
        '{"execute": "remove_hostfwd", "arguments": {"id": 7}}',
        '{"execute": "remove_hostfwd"}',
        '{"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_port": true, "guest_port": 1}}',
        '{"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_port": 1e400, "guest_port": 1}}',
        '{"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_addr": "\\ud800", "host_port": 8,'
        ' "guest_port": 1}}',
        f'{{"execute": "remove_hostfwd", "arguments": {{"id": {"9" * 4000}}}}}',
        "9" * 5000,
        "[" * 1100,
        f'{{"execute": {DEEP}}}',
        f'{{"execute": "remove_hostfwd", "arguments": {{"id": {DEEP}}}}}',
        '{"execute": "list_hostfwd"}' + " " * 5000,
    ],
)
def test_bad_calls_change_nothing(forwards: HostForwards, asked: Asked, request_text: str) -> None:
    assert "error" in forwards.call(request_text.encode())
    assert asked.commands == []
    assert call(forwards, "list_hostfwd") == {"return": {"entries": []}}


def test_a_port_that_is_taken_or_refused_is_not_listed(forwards: HostForwards, asked: Asked) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = call(forwards, "add_hostfwd", proto="tcp", host_addr="127.0.0.1", host_port=port, guest_port=80)
        assert "error" in answer
    asked.refuses = True
    answer = call(forwards, "add_hostfwd", proto="tcp", host_addr="127.0.0.1", host_port=free_port(), guest_port=80)
    assert "error" in answer
    assert call(forwards, "list_hostfwd") == {"return": {"entries": []}}


def test_over_the_socket(forwards: HostForwards) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(b'{"execute": "list_hostfwd"}')
        ours.shutdown(socket.SHUT_WR)
        forwards.serve(theirs)
        assert json.loads(ours.recv(4096)) == {"return": {"entries": []}}


def test_a_number_that_only_equals_an_id_removes_nothing(forwards: HostForwards) -> None:
    call(forwards, "add_hostfwd", proto="tcp", host_addr="127.0.0.1", host_port=free_port(), guest_port=80)
    for number in (True, 1.0):
        assert "error" in call(forwards, "remove_hostfwd", id=number)
    assert call(forwards, "remove_hostfwd", id=1) == {"return": {}}


BAD_CALLS = {
    "deep": b"[" * 1100,
    "too long": b'{"execute": "' + b"x" * 100_000,
    "no UTF-8": b'{"execute": "\xff"}',
    "a zero": b"\0",
    "cut off": b'{"execute": "list_',
    "nothing": b"",
}


@pytest.mark.parametrize("shut", [True, False], ids=["half-closed", "open"])
@pytest.mark.parametrize("sent", BAD_CALLS.values(), ids=BAD_CALLS)
def test_every_bad_call_is_answered(
    forwards: HostForwards, sent: bytes, shut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostfwd, "SECONDS", 0.3)
    ours, theirs = socket.socketpair()
    with ours:
        server = threading.Thread(target=forwards.serve, args=(theirs,))
        server.start()
        ours.sendall(sent)
        if shut:
            ours.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: ours.recv(4096), b""))
    server.join(10)
    assert "error" in json.loads(answer)


def test_a_client_that_goes_on_and_on_or_away(forwards: HostForwards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostfwd, "SECONDS", 0.3)
    ours, theirs = socket.socketpair()
    server = threading.Thread(target=forwards.serve, args=(theirs,))
    server.start()
    with ours, contextlib.suppress(BrokenPipeError):
        for _ in range(100):  # each byte in time, all of them not
            ours.sendall(b" ")
            time.sleep(0.1)
        pytest.fail("it was still waited for")
    server.join(10)
    ours, theirs = socket.socketpair()
    ours.sendall(b"[]")
    ours.close()
    forwards.serve(theirs)
