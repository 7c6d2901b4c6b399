"""Requests, errors, streams and hijacks against a stand-in engine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.client import ApiError, Client, ConnectionLost, Endpoint, resolve_endpoint
from rootless.client.client import image_path, segment, target
from rootless.client.testing import Answer, FakeEngine
from rootless.model.errors import InvalidParameter, Unavailable
from rootless.settings import load


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "api.sock") as engine:
        yield engine


def client_of(engine: FakeEngine) -> Client:
    return Client(Endpoint(str(engine.path)))


def test_values_go_out_and_come_back(engine: FakeEngine) -> None:
    engine.answers["POST /containers/create"] = Answer({"Id": "abc"}, 201)
    client = client_of(engine)
    for _ in range(2):  # the second one uses the connection again
        assert client.call("POST", "/containers/create", {"name": "a b", "x": None}, {"Image": "i"}) == {"Id": "abc"}
    request = engine.received[0]
    assert (request.query, request.value) == ({"name": ["a b"]}, {"Image": "i"})


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (Answer({"message": "No such container: x"}, 404), 404, "No such container: x"),
        (Answer(raw=b"oops\n", status=500), 500, "oops"),
        (Answer(raw=b"", status=503), 503, "the engine answered with status 503 and no message"),
    ],
)
def test_errors_carry_status_and_message(engine: FakeEngine, answer: Answer, status: int, message: str) -> None:
    engine.answers["GET /x"] = answer
    with pytest.raises(ApiError) as caught:
        client_of(engine).call("GET", "/x")
    assert (caught.value.status, caught.value.message) == (status, message)


def test_bodies_are_sent_in_pieces(engine: FakeEngine) -> None:
    engine.answers["POST /images/load"] = Answer({})
    client_of(engine).call("POST", "/images/load", body=iter([b"ab", b"", b"c"]))
    assert engine.received[0].body == b"abc"


def test_json_lines(engine: FakeEngine) -> None:
    engine.answers["GET /events"] = Answer(raw=b'{"a":1}\r\n\n{"a":\n2}'.replace(b"\n2", b"2"))
    assert list(client_of(engine).open("GET", "/events").json_lines()) == [{"a": 1}, {"a": 2}]


def test_an_engine_that_goes_away_is_noticed(engine: FakeEngine) -> None:
    engine.answers["GET /logs"] = Answer(raw=b"some", cut=True)
    with pytest.raises(ConnectionLost):
        client_of(engine).open("GET", "/logs").read()


@pytest.mark.parametrize("hijacked", [False, True])
@pytest.mark.parametrize("accepted", [False, True])
def test_a_request_that_a_dying_engine_never_read_is_sent_to_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accepted: bool, hijacked: bool
) -> None:
    path = tmp_path / "api.sock"
    dying = socket.socket(socket.AF_UNIX)
    dying.bind(str(path))
    dying.listen(1)
    with FakeEngine(tmp_path / "next.sock") as following:
        following.answers["POST /exec"] = Answer(takeover=lambda it: it.sendall(b"hello")) if hijacked else Answer(1)

        def start(settings: object) -> None:
            path.unlink()
            path.symlink_to(following.path)

        monkeypatch.setattr("rootless.client.engine_start.start_engine", start)
        client = Client(Endpoint(str(path), load({"HOME": str(tmp_path)})))
        client._idle = client.connect()  # before the engine's end, which the client hears of when it has sent
        connection = dying.accept()[0] if accepted else None
        threading.Timer(0.1, lambda: [end.close() for end in (dying, connection) if end is not None]).start()
        if hijacked:
            assert client.hijack("/exec", value={"Cmd": ["x"]}).receive() == b"hello"
        else:
            assert client.call("POST", "/exec", value={"Cmd": ["x"]}) == 1
    assert [request.value for request in following.received] == [{"Cmd": ["x"]}]


def test_a_request_that_was_read_is_not_sent_again(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as dying:
        dying.bind(str(path))
        dying.listen(1)

        def read_and_die() -> None:
            connection = dying.accept()[0]
            connection.recv(65536)
            connection.close()

        threading.Thread(target=read_and_die).start()
        with pytest.raises(ConnectionLost) as caught:
            Client(Endpoint(str(path), load({"HOME": str(tmp_path)}))).call("POST", "/exec", value={"Cmd": ["x"]})
    assert type(caught.value) is ConnectionLost


def test_a_hijacked_connection_carries_bytes_both_ways(engine: FakeEngine) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(b"early")
        connection.sendall(connection.recv(100).upper())

    engine.answers["POST /attach"] = Answer(takeover=talk)
    stream = client_of(engine).hijack("/attach", {"stream": True})
    assert stream.send_some(b"typed") == 5
    got = b""
    while data := stream.receive():
        got += data
    assert got == b"earlyTYPED"
    assert engine.received[0].headers["upgrade"] == "tcp"


def test_no_engine_at_a_given_address_is_said_and_none_started(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"Cannot connect to the engine at unix:///.*No such file.*Is it running"):
        Client(Endpoint(str(tmp_path / "none.sock"))).call("GET", "/x")


def test_where_the_engine_is() -> None:
    home = {"HOME": "/home/me", "ROOTLESS_RUNTIME_DIR": "/run/mine"}
    assert resolve_endpoint([], home).url == "unix:///run/mine/docker.sock"
    assert resolve_endpoint([], home).settings is not None
    assert resolve_endpoint([], {**home, "DOCKER_HOST": "unix:///a"}) == Endpoint("/a")
    assert resolve_endpoint([], {**home, "DOCKER_HOST": "unix:///a", "ROOTLESS_HOST": "unix:///b"}) == Endpoint("/b")
    assert resolve_endpoint(["unix:///c"], {**home, "DOCKER_HOST": "unix:///a"}) == Endpoint("/c")
    for wrong in ("tcp://1.2.3.4", "unix://relative", "ssh://x"):
        with pytest.raises(InvalidParameter):
            resolve_endpoint([wrong], home)


def test_queries_and_paths() -> None:
    query = {"all": True, "no": False, "none": None, "n": 0, "filters": {"a": ["b"]}, "list": ["x", "y"], "empty": ""}
    assert target("/p", query) == "/p?all=1&n=0&filters=%7B%22a%22%3A+%5B%22b%22%5D%7D&list=x&list=y"
    assert target("/p", {"filters": {}}) == "/p"
    assert segment("../a b?c") == "..%2Fa%20b%3Fc"
    assert image_path("host:5000/a/b@sha256:1") == "host:5000/a/b@sha256:1"
