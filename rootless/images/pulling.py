"""`pull`: an image from a registry. Layers come side by side, each hashed, unpacked and indexed as it streams in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import Any

import trio

from rootless.images.registry import INDEXES, MANIFESTS, Registry
from rootless.images.storing import LayerBeingStored, Progress, Pulled, diff_ids, parse_json, place_image, write_ahead
from rootless.model.errors import InvalidParameter, NotFound
from rootless.model.platforms import Platform
from rootless.model.reference import Reference
from rootless.settings import Settings
from rootless.store import files
from rootless.store.layout import MANIFEST_ANNOTATION, Layout, hex_of

LAYERS_AT_ONCE = 3
REPORT_BYTES = 1 << 20


async def pull_image(
    layout: Layout,
    settings: Settings,
    wanted: Reference,
    platform: Platform,
    auth: dict[str, str] | None,
    progress: Progress,
) -> str:
    """Returns the image's id. Every digest is verified before anything of it is visible.

    Raises NotFound, InvalidParameter (what came is damaged), RootlessError (registry, disk)."""
    async with Registry(wanted, auth, settings.insecure_registries) as registry:
        manifest, digest, shown = await _manifest(registry, wanted, platform, progress)
        parts = parse_json(manifest, "the manifest")
        config = await registry.small_blob(_digest(parts.get("config"), "configuration"))
        layers = diff_ids(parse_json(config, "the image's configuration"))
        descriptors = parts.get("layers")
        if not isinstance(descriptors, list) or len(descriptors) != len(layers):
            raise InvalidParameter("the manifest and the configuration do not list the same layers")
        with ExitStack() as cleaning:
            staging = await trio.to_thread.run_sync(cleaning.enter_context, files.temporary_directory(layout.temporary))
            made = await _layers(registry, layout, descriptors, layers, staging, progress)
            names = [wanted.name] if wanted.tag else []
            pulled = Pulled(manifest, f"{wanted.repository}@{shown}")
            before = await trio.to_thread.run_sync(layout.entries)
            image_id = await trio.to_thread.run_sync(place_image, layout, made, config, names, staging, pulled)
    progress({"status": f"Digest: {shown}"})
    new = not any((entry.get("annotations") or {}).get(MANIFEST_ANNOTATION) == digest for entry in before)
    what = "Downloaded newer image" if new else "Image is up to date"
    progress({"status": f"Status: {what} for {wanted.familiar}"})
    return image_id


async def _manifest(
    registry: Registry, wanted: Reference, platform: Platform, progress: Progress
) -> tuple[bytes, str, str]:
    """The manifest for a platform, its digest, and the digest of what was asked for, which may be an index."""
    found, kind, digest = await registry.manifest(wanted.digest or wanted.tag)
    progress({"status": f"Pulling from {wanted.path}", "id": wanted.tag or wanted.digest})
    shown = digest
    if kind in INDEXES:
        found, kind, digest = await registry.manifest(choose(parse_json(found, "the index"), platform, wanted.familiar))
    if kind not in MANIFESTS:
        raise InvalidParameter(f"{wanted.familiar} is of a kind that cannot be run: {kind or 'unknown'}")
    return found, digest, shown


async def _layers(
    registry: Registry,
    layout: Layout,
    descriptors: Sequence[Any],
    layers: Sequence[str],
    staging: Path,
    progress: Progress,
) -> dict[str, Path]:
    """Fetch those that are not here; diff id to directory."""
    here = await trio.to_thread.run_sync(layout.hold, staging, layers)
    made: dict[str, Path] = {}
    limit = trio.CapacityLimiter(LAYERS_AT_ONCE)
    try:
        async with trio.open_nursery() as nursery:
            for number, (descriptor, diff_id) in enumerate(zip(descriptors, layers, strict=True)):
                short = hex_of(_digest(descriptor, "layer"))[:12]
                if diff_id in here or diff_id in made:
                    progress({"status": "Already exists", "id": short})
                    continue
                made[diff_id] = staging / str(number)
                progress({"status": "Pulling fs layer", "id": short})
                nursery.start_soon(_fetch, registry, descriptor, diff_id, made[diff_id], limit, progress)
    except ExceptionGroup as group:
        raise _first(group) from None
    return made


async def _fetch(
    registry: Registry,
    descriptor: Mapping[str, Any],
    diff_id: str,
    directory: Path,
    limit: trio.CapacityLimiter,
    progress: Progress,
) -> None:
    digest = _digest(descriptor, "layer")
    short = hex_of(digest)[:12]
    kind = str(descriptor.get("mediaType"))
    if "foreign" in kind or "nondistributable" in kind:
        raise InvalidParameter(f"layer {digest} is a foreign layer ({kind}), which registries do not hand out")
    size = descriptor.get("size")
    if not isinstance(size, int) or size < 0:
        raise InvalidParameter(f"layer {digest} has no size")
    async with limit:
        layer = await trio.to_thread.run_sync(LayerBeingStored, directory)
        try:
            async with aclosing(registry.blob(digest, size)) as pieces:
                await write_ahead(_reported(pieces, size, short, progress), layer.write)
            if layer.digest != digest:
                raise InvalidParameter(f"{registry.host} sent a damaged layer {digest}")
            made = await trio.to_thread.run_sync(layer.finish)
            if made.diff_id != diff_id:
                raise InvalidParameter(f"layer {digest} unpacks to {made.diff_id}, not to {diff_id} as it should")
        finally:
            layer.abort()
    progress({"status": "Pull complete", "id": short})


async def _reported(pieces: AsyncIterator[bytes], size: int, short: str, progress: Progress) -> AsyncIterator[bytes]:
    received = reported = 0
    async for piece in pieces:
        yield piece
        received += len(piece)
        if received - reported >= REPORT_BYTES:
            reported = received
            progress({"status": "Downloading", "progressDetail": {"current": received, "total": size}, "id": short})


def _digest(descriptor: object, what: str) -> str:
    """Of a descriptor. Raises InvalidParameter."""
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    if not isinstance(digest, str):
        raise InvalidParameter(f"the manifest has a {what} without digest")
    hex_of(digest)
    return digest


def choose(index: Mapping[str, Any], wanted: Platform, name: str) -> str:
    """The digest of the manifest for a platform (image-spec, image-index.md). Raises NotFound naming those there."""
    candidates = index.get("manifests")
    offers: list[tuple[Platform, object]] = []
    for candidate in candidates if isinstance(candidates, list) else []:
        theirs = candidate.get("platform") if isinstance(candidate, dict) else None
        if isinstance(theirs, dict):
            words = [str(theirs.get(key) or "") for key in ("os", "architecture", "variant")]
            offers.append((Platform(*words), candidate))
    fitting = [(o, c) for o, c in offers if (o.system, o.architecture) == (wanted.system, wanted.architecture)]
    exact = [(o, c) for o, c in fitting if not wanted.variant or o.variant in ("", wanted.variant)]
    if not fitting:
        there = ", ".join(sorted({str(offer) for offer, _ in offers})) or "none"
        raise NotFound(f"no matching manifest for {wanted} in the manifest list of {name}; there are: {there}")
    return _digest((exact or fitting)[0][1], "manifest")


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
