"""HTTP requests to registries, token servers and the places they redirect to: one connection pool a host, with the TLS
and the proxy that `Access` says. Redirects of GET and HEAD are followed, credentials only within one origin.

Knows nothing of registries' paths; does not repeat a request: `repository` does."""

from __future__ import annotations

import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpcore

from rootless.model.errors import InvalidParameter, RootlessError
from rootless.registry.access import Access
from rootless.registry.proxies import without_password

MAX_REDIRECTS = 10
_READ_BYTES = 512 << 10  # 64 KiB, the library's, is a turn of the loop for each, and a sixth of a large pull's time
REDIRECTS = (301, 302, 303, 307, 308)
Body = Callable[[], AsyncIterator[bytes]] | bytes
_FAILURES = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
    ssl.SSLError,
    OSError,
)


class Broken(RootlessError):
    """No answer, or one that broke off. `connected`: whether there was a connection at all."""

    def __init__(self, message: str, *, connected: bool) -> None:
        super().__init__(message)
        self.connected = connected


class Answer:
    """Status and headers (names in lower case); the body is still to be read. `url` is where redirects led, `through`
    says which proxy may have answered in the server's stead, or is empty."""

    def __init__(
        self, response: httpcore.Response, url: str, through: str, failed: Callable[[BaseException], Broken]
    ) -> None:
        self._response = response
        self._failed = failed
        self.through = through
        self.url = url
        self.status = response.status
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises Broken."""
        try:
            async for piece in self._response.aiter_stream():
                yield piece
        except _FAILURES as error:
            raise self._failed(error) from None

    async def read(self, limit: int, what: str) -> bytes:
        """The whole body. Raises Broken, InvalidParameter where it is longer than `limit` bytes."""
        data = bytearray()
        async for piece in self.chunks():
            data += piece
            if len(data) > limit:
                raise InvalidParameter(f"{what} is longer than {limit >> 10} KiB")
        return bytes(data)

    async def errors(self) -> list[tuple[str, str]]:
        """(code, message) of the body of a refusal (distribution-spec, "Error Codes"); what is there, if anything."""
        try:
            value: Any = json.loads(await self.read(64 << 10, "the refusal"))
        except (ValueError, RecursionError, RootlessError):
            return []
        rows = value.get("errors") if isinstance(value, dict) else None
        found = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        return [(str(row.get("code") or ""), str(row.get("message") or "")[:500]) for row in found]


class _Stream(httpcore.AsyncNetworkStream):
    """Gives what has come, however much, at once."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._inner.read(max(max_bytes, _READ_BYTES), timeout)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Network(httpcore.TrioBackend):
    async def connect_tcp(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        return _Stream(await super().connect_tcp(*args, **options))


class Transport:
    """`aclose()` at the end."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._pools: dict[tuple[str, str], httpcore.AsyncConnectionPool] = {}

    async def aclose(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()

    @asynccontextmanager
    async def request(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | None = None, length: int = 0
    ) -> AsyncIterator[Answer]:
        """`length` is that of a body which is a function: bytes in all. Raises Broken, InvalidParameter (certificates),
        RootlessError (where a redirect may not be followed)."""
        for _ in range(MAX_REDIRECTS):
            answer = await self._send(method, url, headers, body, length)
            try:
                if answer.status in REDIRECTS and method in ("GET", "HEAD") and answer.headers.get("location"):
                    url, headers = self._redirected(url, answer.headers["location"], headers)
                    continue
                yield answer
                return
            finally:
                await answer._response.aclose()
        raise RootlessError(f"{_origin(url)[1]} redirects without end")

    async def _send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None, length: int) -> Answer:
        scheme, host = _origin(url)
        content: bytes | AsyncIterator[bytes] = b""
        sent = {"Host": host, "User-Agent": "rootless", **headers}
        if callable(body):
            content = body()
            sent["Content-Length"] = str(length)
        elif body is not None or method in ("POST", "PUT", "PATCH"):
            content = body or b""
            sent["Content-Length"] = str(len(content))
        limits = {"connect": self._access.connect_seconds, "read": self._access.read_seconds}
        request = httpcore.Request(
            method,
            url,
            headers=[(name.encode(), value.encode("latin-1", "replace")) for name, value in sent.items()],
            content=content,
            extensions={"timeout": {**limits, "write": self._access.read_seconds}},
        )
        proxy = self._access.proxy(scheme, host)
        through = f" (through the proxy {without_password(proxy)})" if proxy else ""

        def failed(error: BaseException) -> Broken:
            connected = not isinstance(error, httpcore.ConnectError | httpcore.ConnectTimeout | httpcore.ProxyError)
            return Broken(f"cannot reach the registry {host}{through}: {_reason(error)}", connected=connected)

        try:
            response = await self._pool(scheme, host, proxy).handle_async_request(request)
            return Answer(response, url, through if scheme == "http" else "", failed)
        except _FAILURES as error:
            raise failed(error) from None

    def _pool(self, scheme: str, host: str, proxy: str) -> httpcore.AsyncConnectionPool:
        pool = self._pools.get((scheme, host))
        if pool is None:
            shared: Any = {
                "ssl_context": self._access.tls(host) if scheme == "https" else None,
                "network_backend": _Network(),
            }
            if proxy:
                parts = urlsplit(proxy)
                auth = (parts.username or "", parts.password or "") if parts.username else None
                pool = httpcore.AsyncHTTPProxy(without_password(proxy), proxy_auth=auth, **shared)
            else:
                pool = httpcore.AsyncConnectionPool(max_connections=20, **shared)
            self._pools[scheme, host] = pool
        return pool

    def _redirected(self, url: str, location: str, headers: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
        """Credentials stay with the origin they are for. Raises RootlessError."""
        target = urljoin(url, location)
        old, new = _origin(url), _origin(target)
        if new[0] not in ("http", "https") or not new[1]:
            raise RootlessError(f"{old[1]} redirects to {location[:200]!r}, which is no address")
        if (old[0], new[0]) == ("https", "http") and not self._access.is_insecure(new[1]):
            raise RootlessError(f"{old[1]} redirects from TLS to {new[1]} without: refused")
        if new == old:
            return target, headers
        return target, {name: value for name, value in headers.items() if name != "Authorization"}


def _origin(url: str) -> tuple[str, str]:
    """(scheme, host[:port]). Raises RootlessError."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise RootlessError(f"{url[:200]!r} is no address: {error}") from None
    return parts.scheme, parts.netloc.rpartition("@")[2]


def same_origin(one: str, other: str) -> bool:
    return _origin(one) == _origin(other)


def _reason(error: BaseException) -> str:
    """The words of the innermost cause that has some: outer ones are often empty."""
    text, seen = "", error
    while seen is not None:
        if isinstance(seen, BaseExceptionGroup):
            seen = seen.exceptions[0]
        if isinstance(seen, OSError) and not isinstance(seen, ssl.SSLError | socket.gaierror) and seen.errno:
            text = os.strerror(seen.errno)  # trio adds the address, which the message has already
        else:
            text = getattr(seen, "strerror", None) or str(seen) or text
        following = seen.__cause__ or seen.__context__
        if following is None:
            break
        seen = following
    return text or type(error).__name__
