"""A registry in front of real blobs that misbehaves as told: cuts connections, lies about lengths and contents, answers
429 and 503, lets tokens expire, redirects to another host. Plain HTTP on loopback, a thread a connection."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.images.registries import config_of, sha256

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class Faults:
    """What goes wrong; `seen` are the requests as (method, path, headers in lower case)."""

    cut_after: list[int] = field(default_factory=list)  # bytes of a large blob after which each connection in turn ends
    # of a blob: so much comes at once, then a little now and then until the event, and then the connection ends
    trickles: dict[str, tuple[int, threading.Event]] = field(default_factory=dict)
    ranges: bool = True
    statuses: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # answered first, one a request
    damage: Callable[[bytes], bytes] | None = None  # of large blobs
    announce: Callable[[int], int] | None = None  # Content-Length of large blobs
    redirect_blobs_to: str = ""
    token_uses: int = 0  # a token is good for so many requests; 0: none is wanted
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def paths(self, word: str) -> list[str]:
        return [path for _, path, _ in self.seen if word in path]


class FaultyRegistry:
    """`blobs` by digest, `manifests` by tag or digest, of any repository. Blobs of `large` bytes and more misbehave."""

    def __init__(self, faults: Faults, large: int = 1 << 16) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.faults = faults
        self.large = large
        self._left = 0
        self._tokens = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.answer(self)

            do_HEAD = do_GET

            def log_message(self, *words: object) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(
        self,
        tag: str,
        layers: list[tuple[bytes, bytes, str]],
        config: bytes = b"",
        annotations: dict[str, str] | None = None,
    ) -> str:
        """An image of (plain tar, packed, media type), each layer annotated; returns its manifest's digest."""
        config = config or config_of([plain for plain, _, _ in layers])
        for data in (config, *(packed for _, packed, _ in layers)):
            self.blobs[sha256(data)] = data
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(config, "application/vnd.oci.image.config.v1+json"),
            "layers": [{**descriptor(packed, kind), "annotations": annotations or {}} for _, packed, kind in layers],
        }
        data = json.dumps(manifest).encode()
        self.manifests[tag] = self.manifests[sha256(data)] = data
        return sha256(data)

    # ------------------------------------------------------------------------------------------------ answers
    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.faults.seen.append((handler.command, handler.path, headers))
        path = urllib.parse.urlsplit(handler.path).path
        if path == "/token":
            self._tokens += 1
            self._left = self.faults.token_uses
            send(handler, 200, {}, json.dumps({"token": f"token-{self._tokens}"}).encode())
            return
        if self.faults.token_uses:
            if self._left <= 0 or headers.get("authorization") != f"Bearer token-{self._tokens}":
                realm = f'Bearer realm="http://{self.address}/token",service="faulty",scope="repository:x:pull"'
                send(handler, 401, {"WWW-Authenticate": realm}, b"{}")
                return
            self._left -= 1
        if self.faults.statuses:
            status, more = self.faults.statuses.pop(0)
            send(handler, status, more, b"{}")
            return
        kind, _, name = path.rpartition("/")
        if kind.endswith("/manifests") and name in self.manifests:
            data = self.manifests[name]
            send(handler, 200, {"Content-Type": MANIFEST, "Docker-Content-Digest": sha256(data)}, data)
        elif kind.endswith("/blobs") and name in self.blobs:
            self._blob(handler, name, headers)
        else:
            send(handler, 404, {}, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')

    def _blob(self, handler: http.server.BaseHTTPRequestHandler, digest: str, headers: dict[str, str]) -> None:
        data, faults = self.blobs[digest], self.faults
        if len(data) < self.large:
            send(handler, 200, {}, data)
            return
        if faults.redirect_blobs_to:
            send(handler, 307, {"Location": f"{faults.redirect_blobs_to}{handler.path}"}, b"")
            return
        data = faults.damage(data) if faults.damage else data
        status, more = 200, {}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        if asked and faults.ranges:
            start, end = int(asked[1]), int(asked[2] or len(data) - 1)
            status, more = 206, {"Content-Range": f"bytes {start}-{end}/{len(data)}"}
            data = data[start : end + 1]
        if digest in faults.trickles:
            count, until = faults.trickles[digest]
            send(handler, status, more, data[:count], len(data))
            with contextlib.suppress(OSError):
                while not until.wait(0.1) and count < len(data) - 100:
                    handler.wfile.write(data[count : count + 100])
                    count += 100
            handler.close_connection = True
            return
        length = faults.announce(len(data)) if faults.announce else len(data)
        cut = faults.cut_after.pop(0) if faults.cut_after else None
        send(handler, status, more, data if cut is None else data[:cut], length)
        if cut is not None or length != len(data):
            handler.close_connection = True


def send(
    handler: http.server.BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes, length: int = -1
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body) if length < 0 else length))
    handler.end_headers()
    try:
        if handler.command != "HEAD":
            handler.wfile.write(body)
    except OSError:
        handler.close_connection = True


def descriptor(data: bytes, kind: str) -> dict[str, object]:
    return {"mediaType": kind, "digest": sha256(data), "size": len(data)}


@contextmanager
def faulty_registry(faults: Faults | None = None, large: int = 1 << 16) -> Iterator[FaultyRegistry]:
    server = FaultyRegistry(faults or Faults(), large)
    try:
        yield server
    finally:
        server.close()
