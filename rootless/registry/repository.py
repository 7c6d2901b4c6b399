"""What a repository holds: manifests and blobs (OCI distribution-spec, "Pull"). Everything with a digest is checked
against it here, except large blobs: whoever takes their pieces hashes them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import trio

from rootless.model.errors import Forbidden, InvalidParameter, NotFound, Unavailable
from rootless.model.reference import Reference, is_digest
from rootless.registry.client import Registry
from rootless.registry.documents import parse_json
from rootless.registry.media import INDEXES, MANIFESTS, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES
from rootless.registry.transport import Answer, Broken

# identity: a blob's bytes must be those its digest is of
_PLAIN = {"Accept-Encoding": "identity"}


@dataclass(frozen=True)
class Manifest:
    """A manifest or index as it came; `digest` is that of `data`."""

    data: bytes
    kind: str
    digest: str

    @property
    def is_index(self) -> bool:
        return self.kind in INDEXES


class Repository:
    """Raises NotFound, InvalidParameter (damaged data) or RootlessError, which name the host."""

    def __init__(self, registry: Registry, wanted: Reference, *, actions: str = "pull") -> None:
        self.registry = registry
        self.wanted = wanted
        self.path = f"/v2/{wanted.path}"
        self._writes = "push" in actions
        self.scope = f"repository:{wanted.path}:{actions}"

    # ------------------------------------------------------------------------------------------------ manifests
    async def manifest(self, tag_or_digest: str) -> Manifest:
        """Its digest is checked where it was asked for by that, or where the registry says it."""
        headers = {**_PLAIN, "Accept": ", ".join((*MANIFESTS, *INDEXES))}
        target = f"{self.path}/manifests/{tag_or_digest}"
        for attempt in (1, 2, 3):
            async with self.registry.request("GET", target, scope=self.scope, headers=headers) as answer:
                if answer.status != 200:
                    await self.refuse(answer, f"manifests/{tag_or_digest}")
                try:
                    data = await answer.read(MAX_MANIFEST_BYTES, f"the manifest {tag_or_digest}")
                    break
                except Broken:
                    if attempt == 3:
                        raise
        kind = answer.headers.get("content-type", "").partition(";")[0].strip()
        wanted = tag_or_digest if ":" in tag_or_digest else answer.headers.get("docker-content-digest", "")
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if is_digest(wanted) and digest != wanted:
            raise InvalidParameter(f"{self.registry.host} sent another manifest than {wanted}: {digest}")
        inside = parse_json(data, f"the manifest that {self.registry.host} sent").get("mediaType")
        return Manifest(data, str(inside or kind), digest)

    async def tags(self) -> list[str]:
        return [tag async for tag in self.registry.pages(f"{self.path}/tags/list", "tags", self.scope)]

    # ------------------------------------------------------------------------------------------------ blobs
    async def has_blob(self, digest: str) -> bool:
        """Raises NotFound where the repository may not be seen."""
        async with self.registry.request("HEAD", f"{self.path}/blobs/{digest}", scope=self.scope) as answer:
            if answer.status in (200, 404):
                return answer.status == 200
            await self.refuse(answer, f"blobs/{digest}")
        raise AssertionError("unreachable")

    async def small_blob(self, digest: str) -> bytes:
        """A configuration. Its digest is checked."""
        data = bytearray()
        async for piece in self._pieces(digest, None, 0):
            data += piece
            if len(data) > MAX_CONFIG_BYTES:
                raise InvalidParameter(f"the blob {digest} is longer than {MAX_CONFIG_BYTES >> 20} MiB")
        if digest != f"sha256:{hashlib.sha256(data).hexdigest()}":
            raise InvalidParameter(f"{self.registry.host} sent a damaged blob {digest}")
        return bytes(data)

    def blob(self, digest: str, size: int, start: int = 0) -> AsyncGenerator[bytes, None]:
        """The pieces of a blob from byte `start` on; the caller checks its digest. More or less than `size` bytes in
        all is an error. A connection that breaks is taken up again where it broke."""
        return self._pieces(digest, size, start)

    async def _pieces(self, digest: str, size: int | None, at: int) -> AsyncGenerator[bytes, None]:
        failures, broke_at = 0, at
        while True:
            try:
                async with self._from(digest, at) as (answer, skip):
                    if size is None and answer.headers.get("content-length", "").isdecimal():
                        size = int(answer.headers["content-length"])
                    async for piece in answer.chunks():
                        if skip:
                            skipped = min(skip, len(piece))
                            piece, skip = piece[skipped:], skip - skipped
                        at += len(piece)
                        if size is not None and at > size:
                            raise self._wrong_length(digest, size)
                        if piece:
                            yield piece
                if size is not None and at != size:
                    raise self._wrong_length(digest, size)
                return
            except Broken:
                if at == size:
                    return
                if at - broke_at >= min(1 << 20, (size or 0) // 20 + 1):
                    failures = 0  # it gets on
                failures, broke_at = failures + 1, at
                wait = self.registry.patience.seconds(failures)
                if wait is None:
                    raise
                await trio.sleep(wait)

    @asynccontextmanager
    async def _from(self, digest: str, at: int) -> AsyncIterator[tuple[Answer, int]]:
        """An answer with a blob's bytes from `at` on, after so many that must be skipped."""
        headers = {**_PLAIN, "Range": f"bytes={at}-"} if at else _PLAIN
        async with AsyncExitStack() as stack:
            request = self.registry.request("GET", f"{self.path}/blobs/{digest}", scope=self.scope, headers=headers)
            answer = await stack.enter_async_context(request)
            if answer.status == 206 and at:
                if not answer.headers.get("content-range", "").startswith(f"bytes {at}-"):
                    raise InvalidParameter(f"{self.registry.host} sent another part of {digest} than was asked for")
                yield answer, 0
                return
            if answer.status == 416:
                raise InvalidParameter(f"{self.registry.host} has a blob {digest} of the wrong length: less than {at}")
            if answer.status != 200:
                await self.refuse(answer, f"blobs/{digest}")
            yield answer, at

    async def part(self, digest: str, start: int, length: int) -> bytes:
        """`length` bytes of a blob from `start` on. Raises NotFound where the registry serves no ranges."""
        headers = {**_PLAIN, "Range": f"bytes={start}-{start + length - 1}"}
        target = f"{self.path}/blobs/{digest}"
        for attempt in (1, 2, 3):
            async with self.registry.request("GET", target, scope=self.scope, headers=headers) as answer:
                if answer.status != 206:
                    if answer.status != 200:
                        await self.refuse(answer, f"blobs/{digest}")
                    raise NotFound(f"{self.registry.host} does not serve parts of blobs")
                try:
                    data = await answer.read(length, f"a part of {digest}")
                    break
                except Broken:
                    if attempt == 3:
                        raise
        if len(data) != length:
            raise InvalidParameter(f"{self.registry.host} sent {len(data)} bytes of {digest} where {length} were asked")
        return data

    # ------------------------------------------------------------------------------------------------ refusals
    async def refuse(self, answer: Answer, path: str) -> None:
        """Raise what a status means, in docker's words."""
        name, host = self.wanted.familiar_repository, self.registry.host
        errors = await answer.errors()
        said = "; ".join(f"{code.lower().replace('_', ' ')}: {message}" for code, message in errors if code)
        if answer.status in (401, 403) and self._writes:
            why = "authentication required" if answer.status == 401 else "requested access to the resource is denied"
            raise Forbidden(said or f"{'unauthorized' if answer.status == 401 else 'denied'}: {why}")
        if answer.status in (401, 403):
            raise NotFound(
                f"pull access denied for {name}, repository does not exist or may require 'rootless login': "
                f"{said or 'denied: requested access to the resource is denied'} ({host} answered {answer.status})"
            )
        if answer.status == 404:
            if any(code == "NAME_UNKNOWN" for code, _ in errors):
                raise NotFound(f"repository {name} not found: {said}")
            if path.startswith("manifests/"):
                wanted = self.wanted.familiar
                raise NotFound(f"manifest for {wanted} not found: {said or 'manifest unknown: manifest unknown'}")
            raise NotFound(f"{host} has no {path} of {name}{f': {said}' if said else ''}")
        if answer.status == 429:
            raise Unavailable(f"{host} answers too many requests (429): {said or 'try again later, or log in'}")
        host += answer.through
        raise Unavailable(f"{host} answered {answer.status} for {path} of {name}; try again later. {said}".strip())

    def _wrong_length(self, digest: str, size: int) -> InvalidParameter:
        return InvalidParameter(f"{self.registry.host} sent a blob {digest} of the wrong length, not {size} bytes")
