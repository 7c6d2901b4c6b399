"""A layer whose contents are fetched as they are asked for, span by span of its table of contents; for `lazy`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import trio

from fuse_overlay import LazyContent, write_lazy_layer
from rootless.images import toc
from rootless.images.storing import explained
from rootless.model.errors import InvalidParameter, NotFound, RootlessError
from rootless.registry.repository import Repository
from rootless.store import files
from rootless.store.layout import hex_of

AROUND_BYTES = 192 << 10  # in one request: a fraction of what a round trip costs
# the program interpreter, the C library, and what container runtimes and that library look at
FIRST_NAMES = {b"libc.so.6", b"ld-linux-x86-64.so.2", b"ld-linux-aarch64.so.1", b"ld-musl-x86_64.so.1"}
FIRST_PATHS = {b"etc/passwd", b"etc/group", b"etc/ld.so.cache", b"bin/sh", b"usr/bin/dash"}
FIRST_BYTES = 4 << 20


@dataclass
class LazyLayer:
    """A layer whose contents are fetched as they are asked for."""

    digest: str
    contents: toc.Contents
    content: LazyContent
    repository: Repository
    coming: dict[int, trio.Event] = field(default_factory=dict)

    async def fetch(self, number: int, limit: trio.CapacityLimiter) -> None:
        """Have a span here, and its neighbours with it where they cost next to nothing. Raises RootlessError."""
        if (event := self.coming.get(number)) is not None:
            await event.wait()
            if self._is_missing(number):
                raise RootlessError(f"a part of layer {self.digest} could not be fetched")
            return
        if not self._is_missing(number):
            return
        numbers = self._around(number)
        event = trio.Event()
        self.coming.update(dict.fromkeys(numbers, event))
        spans = [self.contents.spans[one] for one in numbers]
        start, end = spans[0].chunks[0].begin, spans[-1].chunks[-1].end

        def put(data: bytes) -> None:
            for one, span in zip(numbers, spans, strict=True):
                packed = data[span.chunks[0].begin - start : span.chunks[-1].end - start]
                self.content.put(one, toc.unpack_span(self.contents.form, span, packed))

        try:
            async with limit:
                data = await self.repository.part(self.digest, start, end - start)
                await trio.to_thread.run_sync(put, data)
        except OSError as error:
            raise explained(error) from error
        finally:
            for one in numbers:
                del self.coming[one]
            event.set()

    def read_first(self) -> list[int]:
        """The spans of the files that a process reads before its own."""
        found = []
        for member in self.contents.members:
            if member.size and (member.path in FIRST_PATHS or member.path.rpartition(b"/")[2] in FIRST_NAMES):
                found += self.content.missing(member.data_offset, min(member.size, FIRST_BYTES))
        return found

    def _is_missing(self, number: int) -> bool:
        begin, end = self.content.spans[number]
        return bool(self.content.missing(begin, end - begin))

    def _around(self, number: int) -> list[int]:
        """The spans to fetch in one request: those that lie around one in the blob, as long as that is short."""
        spans = self.contents.spans
        first = last = number
        grown = True
        while grown:
            grown = False
            for one, left, right in ((last + 1, first, last + 1), (first - 1, first - 1, last)):
                if not 0 <= one < len(spans) or one in self.coming or not self._is_missing(one):
                    continue
                length = spans[right].chunks[-1].end - spans[left].chunks[0].begin
                if 0 < length <= AROUND_BYTES:
                    first, last, grown = left, right, True
        return list(range(first, last + 1))


async def open_layer(
    repository: Repository, descriptor: Mapping[str, object], directory: Path, socket_path: Path
) -> LazyLayer:
    """The layer of a manifest's descriptor, made below `directory` where it is not there; questions for its contents go
    to `socket_path`. Raises NotFound (it has no table of contents, or there are no ranges), InvalidParameter,
    RootlessError."""
    digest, size = str(descriptor["digest"]), int(str(descriptor["size"]))
    given = descriptor.get("annotations")
    annotations = given if isinstance(given, dict) else {}
    place = toc.chunked_place(annotations)
    if place is None and toc.ESTARGZ_DIGEST in annotations and size > toc.FOOTER_BYTES:
        footer = await repository.part(digest, size - toc.FOOTER_BYTES, toc.FOOTER_BYTES)
        place = toc.estargz_place(footer, size, str(annotations[toc.ESTARGZ_DIGEST]))
    if place is None or place.offset + place.length > size:
        raise NotFound(f"layer {digest} has no table of contents")
    data = await repository.part(digest, place.offset, place.length)
    target = directory / hex_of(digest)

    def make() -> LazyLayer:
        contents = toc.parse(place, data, size)
        if not target.exists():
            _make(target, contents, digest, socket_path)
        content = LazyContent(target)
        if content.spans != [(span.begin, span.end) for span in contents.spans]:
            raise InvalidParameter(f"{target} is not of layer {digest}; remove it")
        return LazyLayer(digest, contents, content, repository)

    return await trio.to_thread.run_sync(make)


def _make(target: Path, contents: toc.Contents, digest: str, socket_path: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.temporary_directory(target.parent) as staging:
            made = staging / "lazy"
            made.mkdir()
            spans = [(span.begin, span.end) for span in contents.spans]
            write_lazy_layer(made, contents.members, bytes.fromhex(hex_of(digest)), spans, socket_path)
            with contextlib.suppress(FileExistsError):
                os.rename(made, target)
    except OSError as error:
        raise explained(error) from error


def fill(content: LazyContent, lazy: Path, whole: Path) -> None:
    """All contents of a lazy layer, from the layer itself now that it is here. Blocking. Raises LayerError, OSError."""
    from fuse_overlay import contents_in_common

    source = os.open(whole / "layer.tar", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for at, offset, size in contents_in_common(whole, lazy):
            content.copy_from(source, at, offset, size)
    finally:
        os.close(source)
