"""DNS over TCP (RFC 7766): a guest's connection to port 53 of the gateway ends here, not at a resolver, so that names
of the network are answered as over UDP.

To `tcp` the connection is one with a host's socket like any other: one end of a socket pair, whose other end is read
here. Questions of one connection may be answered in any order; each that is not ours is a connection to a resolver."""

from __future__ import annotations

import socket
import time

from slirp.host.dns import MAX_QUERIES, TRY_SECONDS, Answers
from slirp.host.endpoint import Endpoint
from slirp.host.poller import READ, WRITE
from slirp.wire import dns

IDLE_SECONDS = 30.0
MAX_UNSENT = 256 << 10  # bytes of answers: a guest that does not read them is not read either
_LENGTH_BYTES = 2


class _Stream:
    """One connection of a guest."""

    def __init__(self, endpoint: Endpoint, sock: socket.socket, now: float) -> None:
        self.endpoint, self.socket, self.last_used = endpoint, sock, now
        self.received = bytearray()
        self.unsent = bytearray()
        self.ended = False  # the guest asks no more
        self.asked: set[_Forwarded] = set()


class _Forwarded:
    """One question on its way to a resolver."""

    def __init__(self, stream: _Stream, query: bytes) -> None:
        self.stream, self.query = stream, query
        self.socket: socket.socket | None = None
        self.unsent = b""
        self.received = bytearray()
        self.resolver = ""
        self.tries = 0
        self.deadline = 0.0


class Streams:
    """All of one network."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._streams: set[_Stream] = set()

    @property
    def waiting(self) -> bool:
        return bool(self._streams)

    def open(self, endpoint: Endpoint) -> socket.socket:
        """What a guest's connection is to be connected with. Raises OSError."""
        theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for sock in (theirs, ours):
            sock.setblocking(False)
        stream = _Stream(endpoint, ours, time.monotonic())
        self._streams.add(stream)
        endpoint.sockets.add(ours.fileno(), READ, lambda events: self._ready(stream, events))
        return theirs

    # ------------------------------------------------------------------------------------------------ the guest's side
    def _ready(self, stream: _Stream, events: int) -> None:
        stream.last_used = time.monotonic()
        try:
            if events & WRITE:
                del stream.unsent[: stream.socket.send(stream.unsent)]
            if events & ~WRITE and not stream.ended:
                data = stream.socket.recv(65536)
                stream.ended = not data
                stream.received += data
        except BlockingIOError:
            pass
        except OSError:
            self._close(stream)
            return
        self._take(stream)

    def _take(self, stream: _Stream) -> None:
        """Answer or pass on what has come whole."""
        received = stream.received
        while len(received) >= _LENGTH_BYTES and len(stream.unsent) < MAX_UNSENT:
            end = _LENGTH_BYTES + (received[0] << 8 | received[1])
            if len(received) < end or stream.endpoint.queries >= MAX_QUERIES:
                break
            query = bytes(received[_LENGTH_BYTES:end])
            del received[:end]
            if not dns.is_query(query):
                self._close(stream)
                return
            known = self._answers.own(stream.endpoint, query)
            if known is not None:
                stream.unsent += len(known).to_bytes(_LENGTH_BYTES, "big") + known
                continue
            forwarded = _Forwarded(stream, query)
            stream.asked.add(forwarded)
            stream.endpoint.queries += 1
            self._ask(forwarded)
        self._settle(stream)

    def _settle(self, stream: _Stream) -> None:
        """Send what can be sent, wait for what is to come, close what is done."""
        if stream not in self._streams:
            return
        try:
            if stream.unsent:
                del stream.unsent[: stream.socket.send(stream.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._close(stream)
            return
        if stream.ended and not stream.unsent and not stream.asked:
            self._close(stream)
            return
        reads = not stream.ended and len(stream.unsent) < MAX_UNSENT and len(stream.received) <= 65537
        events = (READ if reads else 0) | (WRITE if stream.unsent else 0)
        stream.endpoint.sockets.change(stream.socket.fileno(), events)

    def _close(self, stream: _Stream) -> None:
        if stream in self._streams:
            self._streams.discard(stream)
            for forwarded in list(stream.asked):
                self._done(forwarded)
            stream.endpoint.sockets.remove(stream.socket.fileno())
            stream.socket.close()

    # ------------------------------------------------------------------------------------------------ the resolver's
    def _ask(self, forwarded: _Forwarded) -> None:
        self._hang_up(forwarded)
        while (found := self._answers.resolver(forwarded.stream.endpoint, forwarded.tries)) is not None:
            forwarded.tries += 1
            forwarded.resolver, (family, target) = found
            try:
                sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            except OSError:
                continue
            try:
                sock.connect(target)
            except BlockingIOError:
                pass
            except OSError:
                sock.close()
                continue
            forwarded.socket = sock
            forwarded.unsent = len(forwarded.query).to_bytes(_LENGTH_BYTES, "big") + forwarded.query
            forwarded.received.clear()
            forwarded.deadline = time.monotonic() + TRY_SECONDS
            forwarded.stream.endpoint.sockets.add(
                sock.fileno(), WRITE, lambda events: self._answering(forwarded, events)
            )
            return
        self._answer(forwarded, dns.failure(forwarded.query))

    def _answering(self, forwarded: _Forwarded, events: int) -> None:
        sock = forwarded.socket
        if sock is None:
            return
        try:
            if forwarded.unsent:
                forwarded.unsent = forwarded.unsent[sock.send(forwarded.unsent) :]
                if not forwarded.unsent:
                    forwarded.stream.endpoint.sockets.change(sock.fileno(), READ)
                return
            data = sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        received = forwarded.received
        received += data
        if len(received) >= _LENGTH_BYTES + dns.HEADER_BYTES:
            end = _LENGTH_BYTES + (received[0] << 8 | received[1])
            answer = bytes(received[_LENGTH_BYTES:end])
            if len(received) >= end and answer[:2] == forwarded.query[:2] and answer[2] & 0x80:
                self._answers.answered(forwarded.resolver)
                self._answer(forwarded, answer)
                return
        if not data:
            self._ask(forwarded)

    def _answer(self, forwarded: _Forwarded, answer: bytes) -> None:
        stream = forwarded.stream
        stream.unsent += len(answer).to_bytes(_LENGTH_BYTES, "big") + answer
        self._done(forwarded)
        self._settle(stream)

    def _done(self, forwarded: _Forwarded) -> None:
        self._hang_up(forwarded)
        if forwarded in forwarded.stream.asked:
            forwarded.stream.asked.discard(forwarded)
            forwarded.stream.endpoint.queries -= 1

    def _hang_up(self, forwarded: _Forwarded) -> None:
        if forwarded.socket is not None:
            forwarded.stream.endpoint.sockets.remove(forwarded.socket.fileno())
            forwarded.socket.close()
            forwarded.socket = None

    # ------------------------------------------------------------------------------------------------ time, the end
    def tick(self, now: float) -> None:
        for stream in list(self._streams):
            for forwarded in list(stream.asked):
                if now >= forwarded.deadline:
                    self._ask(forwarded)
            if stream.received and not stream.asked:
                self._take(stream)  # it had too many questions open
            if now - stream.last_used > IDLE_SECONDS and not stream.asked:
                self._close(stream)

    def forget(self, endpoint: Endpoint) -> None:
        for stream in [stream for stream in self._streams if stream.endpoint is endpoint]:
            self._close(stream)
