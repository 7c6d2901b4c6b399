"""Into a repository: blobs, mounted from a neighbour where it has them, and manifests (distribution-spec, "Push")."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from urllib.parse import quote, urljoin

import trio

from rootless.model.errors import Forbidden, RootlessError
from rootless.registry.repository import Repository
from rootless.registry.transport import Answer, Broken

_BYTES = {"Content-Type": "application/octet-stream"}


class Uploads:
    """Raises Forbidden (in docker's words), RootlessError."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._registry = repository.registry

    async def mount(self, digest: str, source: str) -> str:
        """Take a blob from the repository of path `source`. "" where that is done, else the address of an upload that
        the registry has begun instead."""
        target = f"{self._repository.path}/blobs/uploads/?mount={quote(digest)}&from={quote(source, safe='')}"
        scope = f"{self._repository.scope} repository:{source}:pull"
        async with self._registry.request("POST", target, scope=scope) as answer:
            if answer.status == 201:
                return ""
            if answer.status == 202 and answer.headers.get("location"):
                return urljoin(answer.url, answer.headers["location"])
            if answer.status in (401, 403, 404, 405):
                return await self._begin()  # of no help: an ordinary upload says what is wrong, if anything is
            raise await self._refusal(answer, f"the mount of {digest}")

    async def blob(
        self,
        digest: str,
        size: int,
        read: Callable[[int], AsyncIterator[bytes]],
        begun: str = "",
    ) -> None:
        """`read(start)` gives its bytes from there on, as often as it is asked. `begun` is what `mount` gave. An upload
        that breaks is taken up where the registry says it is, else begun anew."""
        address, at, sent, failures = begun or await self._begin(), 0, False, 0
        while True:
            try:
                if not sent and size:
                    address = await self._send(address, at, size, read)
                sent = True
                await self._complete(address, digest)
                return
            except Broken:
                failures += 1
                wait = self._registry.patience.seconds(failures)
                if wait is None:
                    raise
                await trio.sleep(wait)
                if sent and await self._repository.has_blob(digest):
                    return
                sent = False
                address, reached = await self._resume(address, size)
                failures, at = (0 if reached > at else failures), reached

    async def manifest(self, tag_or_digest: str, data: bytes, kind: str) -> None:
        target = f"{self._repository.path}/manifests/{tag_or_digest}"
        headers = {"Content-Type": kind}
        async with self._registry.request(
            "PUT", target, scope=self._repository.scope, headers=headers, body=data
        ) as answer:
            if answer.status not in (200, 201, 202):
                raise await self._refusal(answer, f"the manifest {tag_or_digest}")

    # ------------------------------------------------------------------------------------------------ steps
    async def _begin(self) -> str:
        target = f"{self._repository.path}/blobs/uploads/"
        async with self._registry.request("POST", target, scope=self._repository.scope) as answer:
            if answer.status != 202 or not answer.headers.get("location"):
                raise await self._refusal(answer, "an upload")
            return urljoin(answer.url, answer.headers["location"])

    async def _send(self, address: str, at: int, size: int, read: Callable[[int], AsyncIterator[bytes]]) -> str:
        """The rest in one request; returns the address to go on with. Raises Broken where another try may help."""
        headers = {**_BYTES, "Content-Range": f"{at}-{size - 1}"} if at else _BYTES
        async with self._registry.request(
            "PATCH",
            address,
            scope=self._repository.scope,
            headers=headers,
            body=lambda: read(at),
            length=size - at,
            repeat=False,
        ) as answer:
            self._passing(answer)
            if answer.status not in (200, 201, 202, 204):
                raise await self._refusal(answer, "an upload")
            return urljoin(answer.url, answer.headers.get("location") or answer.url)

    async def _complete(self, address: str, digest: str) -> None:
        target = f"{address}{'&' if '?' in address else '?'}digest={quote(digest)}"
        async with self._registry.request(
            "PUT", target, scope=self._repository.scope, headers=_BYTES, body=b"", repeat=False
        ) as answer:
            self._passing(answer)
            if answer.status not in (200, 201, 204):
                raise await self._refusal(answer, f"the blob {digest}")

    async def _resume(self, address: str, size: int) -> tuple[str, int]:
        """Where the registry is: (address, bytes that it has). An upload it knows nothing of is begun anew."""
        async with self._registry.request("GET", address, scope=self._repository.scope) as answer:
            first, _, last = answer.headers.get("range", "").removeprefix("bytes=").partition("-")
            if answer.status == 204 and first == "0" and last.isdecimal() and 0 < int(last) < size:
                return urljoin(answer.url, answer.headers.get("location") or answer.url), int(last) + 1
        return await self._begin(), 0

    def _passing(self, answer: Answer) -> None:
        """Raise Broken for what may be otherwise next time; a lost upload too: it is begun anew."""
        if answer.status in (404, 408, 416, 429) or answer.status >= 500:
            raise Broken(f"{self._registry.host} answered {answer.status} in the middle of an upload", connected=True)

    async def _refusal(self, answer: Answer, what: str) -> RootlessError:
        errors = await answer.errors()
        if answer.status in (401, 403):
            code, message = errors[0] if errors else ("DENIED", "requested access to the resource is denied")
            return Forbidden(f"{code.lower()}: {message}")
        said = "; ".join(f"{code.lower().replace('_', ' ')}: {message}" for code, message in errors)
        return RootlessError(f"{self._registry.host} refused {what} ({answer.status}): {said or 'no reason given'}")
