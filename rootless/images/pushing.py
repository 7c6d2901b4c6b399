"""`push`: an image to a registry. Only what is not there is sent: a layer is looked for, then mounted from a repository
of the same registry that is known to have it, and packed and sent only after that.

Where every layer is there in the form it was pulled in, the manifest that was pulled is pushed, byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import trio

from rootless.images import packing, sources
from rootless.images.entries import entries_of, name_of, origin_of
from rootless.images.image import Image
from rootless.images.progress import Bar
from rootless.images.pulling import first_error, opened
from rootless.images.sources import Source
from rootless.images.storing import Progress, parse_json
from rootless.model import reference
from rootless.model.errors import NotFound, RootlessError
from rootless.model.reference import Reference
from rootless.registry.access import Access
from rootless.registry.media import DOCKER_LAYER, DOCKER_MANIFEST, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from rootless.registry.repository import Repository
from rootless.registry.uploads import Uploads
from rootless.store import files
from rootless.store.index import MANIFEST_ANNOTATION, PULLED_ANNOTATION
from rootless.store.layout import Layout, hex_of

LAYERS_AT_ONCE = 3
MOUNTS_TRIED = 4
_READ_BYTES = 1 << 20
Descriptor = Mapping[str, Any]


@dataclass(frozen=True)
class _Base:
    """What the manifest is made from: the one that was pulled, or an empty one of the OCI's kind."""

    value: Mapping[str, Any]
    data: bytes = b""
    layers: Sequence[Descriptor] = ()

    @property
    def kind(self) -> str:
        return str(self.value.get("mediaType") or OCI_MANIFEST)

    @property
    def layer_kind(self) -> str:
        return DOCKER_LAYER if self.kind == DOCKER_MANIFEST else OCI_LAYER


async def push_image(
    layout: Layout, access: Access, image: Image, wanted: Reference, auth: Mapping[str, str] | None, progress: Progress
) -> str:
    """Returns the digest of the manifest. Raises Forbidden (in docker's words), RootlessError (registry, disk)."""
    progress({"status": f"The push refers to repository [{wanted.repository}]"})
    base = await trio.to_thread.run_sync(_base, layout, image, wanted)
    with ExitStack() as cleaning:
        staging = await trio.to_thread.run_sync(cleaning.enter_context, files.temporary_directory(layout.temporary))
        await trio.to_thread.run_sync(layout.hold, staging, image.layers)
        endpoint = access.registry(wanted.registry)
        async with opened(access, endpoint, wanted, auth, actions="pull,push") as repository:
            pushing = _Pushing(layout, repository, base, staging, progress)
            layers = await pushing.layers(image.layers)
            config = await trio.to_thread.run_sync(layout.blob, image.id)
            await pushing.small_blob(image.id, config)
            data = manifest_of(base.value, base.layer_kind, layers, base.layers, base.data, image.id, len(config))
            await pushing.uploads.manifest(wanted.tag, data, base.kind)
        digest = await trio.to_thread.run_sync(_note, layout, staging, image, wanted, data)
    progress({"status": f"{wanted.tag}: digest: {digest} size: {len(data)}"})
    progress({"progressDetail": {}, "aux": {"Tag": wanted.tag, "Digest": digest, "Size": len(data)}})
    return digest


def _base(layout: Layout, image: Image, wanted: Reference) -> _Base:
    """Of the manifests of all its names: one whose layers that registry has, and of those the wanted name's own, then
    one of the wanted repository."""
    there: dict[str, set[str]] = {}  # by diff id: the packed layers that the registry has had
    for diff_id in image.layers:
        found = sources.known(layout, diff_id)
        there[diff_id] = {one.digest for one in found if one.repository.startswith(f"{wanted.registry}/")}
    ranked: list[tuple[tuple[bool, bool, bool], _Base]] = []
    for origin in map(origin_of, entries_of(layout, image.manifest_digest)):
        try:
            data = layout.blob(origin.manifest) if origin.manifest else b""
        except (KeyError, RootlessError):
            continue
        value = parse_json(data, "the manifest") if data else {}
        layers = value.get("layers")
        if not isinstance(layers, list) or len(layers) != len(image.layers):
            continue
        has = origin.repository.startswith(f"{wanted.registry}/") or all(
            layer.get("digest") in there[diff_id] for layer, diff_id in zip(layers, image.layers, strict=True)
        )
        rank = not has, origin.name != wanted.name, origin.repository != wanted.repository
        ranked.append((rank, _Base(value, data, layers)))
    empty = _Base({"schemaVersion": 2, "mediaType": OCI_MANIFEST})
    return min(ranked, key=lambda one: one[0])[1] if ranked else empty


def manifest_of(
    base: Mapping[str, Any],
    layer_kind: str,
    layers: Sequence[Source],
    before: Sequence[Descriptor],
    data: bytes,
    config_digest: str,
    config_bytes: int,
) -> bytes:
    """The manifest over packed layers; `data`, that of `base`, where they are those that it had. Pure."""
    if data and [layer.digest for layer in layers] == [one.get("digest") for one in before]:
        return data
    config = base.get("config") or {"mediaType": OCI_CONFIG, "digest": config_digest, "size": config_bytes}
    rows = []
    for number, layer in enumerate(layers):
        if before and before[number].get("digest") == layer.digest:
            rows.append(before[number])
            continue
        separator = "." if layer_kind == DOCKER_LAYER else "+"
        kind = f"{layer_kind}{separator}{layer.form}" if layer.form else layer_kind
        rows.append({"mediaType": kind, "digest": layer.digest, "size": layer.size})
    made = {**base, "schemaVersion": 2, "mediaType": str(base.get("mediaType") or OCI_MANIFEST)}
    return json.dumps({**made, "config": config, "layers": rows}).encode()


def _note(layout: Layout, staging: Path, image: Image, wanted: Reference, manifest: bytes) -> str:
    """What was pushed is what a pull would give now."""
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    with layout.changing() as entries:
        for entry in entries:
            if entry["digest"] == image.manifest_digest and name_of(entry) == wanted.name:
                layout.place_blob(staging, manifest)
                noted = {PULLED_ANNOTATION: f"{wanted.repository}@{digest}", MANIFEST_ANNOTATION: digest}
                entry["annotations"] = {**(entry.get("annotations") or {}), **noted}
    return digest


class _Pushing:
    """One push at work."""

    def __init__(self, layout: Layout, repository: Repository, base: _Base, staging: Path, progress: Progress) -> None:
        self._layout = layout
        self._repository = repository
        self._base = base
        self._staging = staging
        self._progress = progress
        self.uploads = Uploads(repository)

    async def layers(self, diff_ids: Sequence[str]) -> list[Source]:
        """Each in the form it has in the registry when this returns."""
        bars = {diff_id: Bar(hex_of(diff_id)[:12], self._progress) for diff_id in reversed(diff_ids)}
        for bar in bars.values():
            bar.say("Preparing")
        done: dict[str, Source] = {}
        limit = trio.CapacityLimiter(LAYERS_AT_ONCE)

        async def one(diff_id: str, before: Descriptor | None, bar: Bar) -> None:
            async with limit:
                done[diff_id] = await self._layer(diff_id, before, bar)

        before = dict(zip(diff_ids, self._base.layers, strict=False))
        try:
            async with trio.open_nursery() as nursery:
                for diff_id, bar in bars.items():
                    nursery.start_soon(one, diff_id, before.get(diff_id), bar)
        except ExceptionGroup as group:
            raise first_error(group) from None
        return [done[diff_id] for diff_id in diff_ids]

    async def _layer(self, diff_id: str, before: Descriptor | None, bar: Bar) -> Source:
        target = self._repository.wanted.repository
        known = await trio.to_thread.run_sync(sources.known, self._layout, diff_id)
        begun = ""
        for source in self._candidates(known, before):
            if await self._repository.has_blob(source.digest):
                bar.say("Layer already exists")
                return await self._remember(diff_id, source)
            for other in self._neighbours(known, source.digest):
                begun = await self.uploads.mount(source.digest, other)
                if not begun:
                    bar.say(f"Mounted from {other}")
                    return await self._remember(diff_id, source)
        bar.say("Waiting")
        with ExitStack() as cleaning:
            packed = await trio.to_thread.run_sync(self._spool)
            cleaning.callback(packed.close)

            def pack() -> tuple[str, int]:
                tar = self._layout.layer(diff_id) / "layer.tar"
                total = tar.stat().st_size
                return packing.pack(
                    tar,
                    packed,
                    lambda count: trio.from_thread.run_sync(bar.moved, "Preparing", count, total),
                )

            try:
                digest, size = await trio.to_thread.run_sync(pack)
            except FileNotFoundError:
                raise NotFound(f"layer {diff_id} was removed meanwhile; get the image again") from None
            except OSError as error:
                raise RootlessError(f"cannot pack layer {diff_id}: {error.strerror}") from error
            source = Source(target, digest, size, "gzip")
            if await self._repository.has_blob(digest):
                bar.say("Layer already exists")
            else:
                await self.uploads.blob(digest, size, lambda at: _sent(packed, at, size, bar), begun)
                bar.say("Pushed")
        return await self._remember(diff_id, source)

    def _candidates(self, known: Sequence[Source], before: Descriptor | None) -> list[Source]:
        """Forms of a layer to look for: the one in the manifest first, since that may stay as it is then."""
        found: dict[str, Source] = {}
        for source in known:
            if source.form == "gzip" or self._base.kind == OCI_MANIFEST:
                found.setdefault(source.digest, source)
        if before is not None:
            first = found.pop(str(before["digest"]), None)
            if first is None:
                size = int(before.get("size") or 0)
                first = Source(self._repository.wanted.repository, str(before["digest"]), size)
            return [first, *found.values()][:MOUNTS_TRIED]
        return list(found.values())[:MOUNTS_TRIED]

    def _neighbours(self, known: Sequence[Source], digest: str) -> list[str]:
        """Paths of other repositories of this registry that have had a blob."""
        wanted = self._repository.wanted
        parsed = [reference.parse(source.repository) for source in known if source.digest == digest]
        paths = [other.path for other in parsed if other.registry == wanted.registry and other.path != wanted.path]
        return list(dict.fromkeys(paths))[:MOUNTS_TRIED]

    async def _remember(self, diff_id: str, source: Source) -> Source:
        noted = replace(source, repository=self._repository.wanted.repository)
        await trio.to_thread.run_sync(sources.remember, self._layout, diff_id, noted)
        return noted

    async def small_blob(self, digest: str, data: bytes) -> None:
        async def read(at: int) -> AsyncIterator[bytes]:
            yield data[at:]

        if not await self._repository.has_blob(digest):
            await self.uploads.blob(digest, len(data), read)

    def _spool(self) -> BinaryIO:
        return tempfile.TemporaryFile(dir=self._staging)


async def _sent(file: BinaryIO, at: int, size: int, bar: Bar) -> AsyncIterator[bytes]:
    while at < size:
        piece = await trio.to_thread.run_sync(os.pread, file.fileno(), _READ_BYTES, at)
        yield piece
        at += len(piece)
        bar.moved("Pushing", at, size)
