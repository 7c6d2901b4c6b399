"""One connection of the engine's API: what a client does to it is that client's loss alone."""

from __future__ import annotations

import socket

import pytest
import trio

from rootless.api.http import Connection, Request, Response, json_response


def spoken(sent: bytes) -> bytes:
    """What a client gets who sends this, reads the answer and goes. Raises what would end the engine."""

    async def handler(request: Request) -> Response:
        return json_response({"message": "page not found"}, 404)

    async def body() -> bytes:
        ours, theirs = socket.socketpair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Connection(trio.SocketStream(_trio(ours)), handler, {}).serve)
            client = trio.SocketStream(_trio(theirs))
            await client.send_all(sent)
            with trio.fail_after(10):
                received = await client.receive_some(65536)
            await client.aclose()
        return received

    return trio.run(body)


def _trio(one: socket.socket) -> trio.socket.SocketType:
    one.setblocking(False)
    return trio.socket.from_stdlib_socket(one)


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 20000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nffff\r\n"],
    ids=["length", "chunked"],
)
def test_an_upload_that_breaks_off_after_the_answer(head: bytes) -> None:
    assert b"404" in spoken(b"POST /images/load HTTP/1.1\r\nHost: d\r\n" + head + b"x" * 1000).splitlines()[0]


def test_an_upload_whose_framing_is_wrong_after_the_answer() -> None:
    sent = b"POST /images/load HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnot a length\r\n"
    assert b"404" in spoken(sent).splitlines()[0]


def test_a_target_that_is_no_address() -> None:
    assert b"400" in spoken(b"GET //[ HTTP/1.1\r\nHost: d\r\n\r\n").splitlines()[0]
