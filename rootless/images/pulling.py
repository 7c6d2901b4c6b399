"""`pull`: an image from a registry. Layers come side by side, each hashed, unpacked and indexed as it streams in."""

from __future__ import annotations

import platform as platform_module
from collections.abc import Callable, Mapping
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import Any

import trio

from rootless.images import importing
from rootless.images.registry import INDEXES, MANIFESTS, Registry
from rootless.images.storing import LayerBeingStored, diff_ids, parse_json, place_image
from rootless.model.errors import InvalidParameter, NotFound
from rootless.model.reference import Reference
from rootless.settings import Settings
from rootless.store import files
from rootless.store.layout import Layout, hex_of

Progress = Callable[[dict[str, Any]], None]
LAYERS_AT_ONCE = 3
REPORT_BYTES = 1 << 20
_VARIANTS = {"armv7l": "v7", "armv6l": "v6", "aarch64": "v8"}


async def pull_image(
    layout: Layout,
    settings: Settings,
    wanted: Reference,
    platform: str,
    auth: dict[str, str] | None,
    progress: Progress,
) -> str:
    """Returns the image's id. `platform` is os/arch[/variant] or "". Every digest is verified before anything of it is
    visible.

    Raises NotFound, InvalidParameter (what came is damaged), RootlessError (registry, disk)."""
    async with Registry(wanted, auth, settings.insecure_registries) as registry:
        found, kind, digest = await registry.manifest(wanted.digest or wanted.tag)
        progress({"status": f"Pulling from {wanted.path}", "id": wanted.tag or wanted.digest})
        shown = digest
        if kind in INDEXES:
            chosen = choose(parse_json(found, "the index"), platform, wanted.familiar)
            found, kind, digest = await registry.manifest(chosen)
        if kind not in MANIFESTS:
            raise InvalidParameter(f"{wanted.familiar} is of a kind that cannot be run: {kind or 'unknown'}")
        manifest = parse_json(found, "the manifest")
        config = await registry.small_blob(_digest(manifest.get("config"), "configuration"))
        layers = diff_ids(parse_json(config, "the image's configuration"))
        descriptors = manifest.get("layers")
        if not isinstance(descriptors, list) or len(descriptors) != len(layers):
            raise InvalidParameter("the manifest and the configuration do not list the same layers")
        with ExitStack() as cleaning:
            staging = await trio.to_thread.run_sync(cleaning.enter_context, files.temporary_directory(layout.temporary))
            made: dict[str, Path] = {}
            limit = trio.CapacityLimiter(LAYERS_AT_ONCE)
            try:
                async with trio.open_nursery() as nursery:
                    for number, (descriptor, diff_id) in enumerate(zip(descriptors, layers, strict=True)):
                        short = hex_of(_digest(descriptor, "layer"))[:12]
                        if layout.layer(diff_id).exists() or diff_id in made:
                            progress({"status": "Already exists", "id": short})
                            continue
                        made[diff_id] = staging / str(number)
                        progress({"status": "Pulling fs layer", "id": short})
                        nursery.start_soon(_fetch, registry, descriptor, diff_id, made[diff_id], limit, progress)
            except ExceptionGroup as group:
                raise _first(group) from None
            # the name by digest is kept in the manifest itself; a tag is a name
            names = [wanted.name] if wanted.tag else []
            new = not any(entry["digest"] == digest for entry in layout.entries())
            image_id = await trio.to_thread.run_sync(place_image, layout, made, config, found, names, staging)
    progress({"status": f"Digest: {shown}"})
    what = "Downloaded newer image" if new else "Image is up to date"
    progress({"status": f"Status: {what} for {wanted.familiar}"})
    return image_id


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
            reported = 0
            async with aclosing(registry.blob(digest, size)) as pieces:
                async for piece in pieces:
                    await trio.to_thread.run_sync(layer.write, piece)
                    if layer.received - reported >= REPORT_BYTES:
                        reported = layer.received
                        detail = {"current": reported, "total": size}
                        progress({"status": "Downloading", "progressDetail": detail, "id": short})
            if layer.digest.hexdigest() != hex_of(digest):
                raise InvalidParameter(f"{registry.host} sent a damaged layer {digest}")
            made = await trio.to_thread.run_sync(layer.finish)
            if made.diff_id != diff_id:
                raise InvalidParameter(f"layer {digest} unpacks to {made.diff_id}, not to {diff_id} as it should")
        finally:
            layer.abort()
    progress({"status": "Pull complete", "id": short})


def _digest(descriptor: object, what: str) -> str:
    """Of a descriptor. Raises InvalidParameter."""
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    if not isinstance(digest, str):
        raise InvalidParameter(f"the manifest has a {what} without digest")
    hex_of(digest)
    return digest


def choose(index: Mapping[str, Any], platform: str, name: str) -> str:
    """The digest of the manifest for a platform (image-spec, image-index.md). Raises NotFound naming those there."""
    system, architecture, variant = [*platform.split("/"), "", "", ""][:3] if platform else ("", "", "")
    if platform and not architecture:  # `amd64` alone
        system, architecture = "", system
    system = system or "linux"
    if not architecture:
        architecture, variant = importing.architecture(), _VARIANTS.get(platform_module.machine(), "")
    offered = []
    candidates = index.get("manifests")
    for exact in (True, False):
        for candidate in candidates if isinstance(candidates, list) else []:
            theirs = candidate.get("platform") if isinstance(candidate, dict) else None
            if not isinstance(theirs, dict):
                continue
            offer = "/".join(str(theirs[key]) for key in ("os", "architecture", "variant") if theirs.get(key))
            offered.append(offer)
            fits = (theirs.get("os"), theirs.get("architecture")) == (system, architecture)
            if fits and (not exact or not variant or theirs.get("variant", variant) == variant):
                return _digest(candidate, "manifest")
    asked = "/".join(part for part in (system, architecture, variant) if part)
    raise NotFound(
        f"no matching manifest for {asked} in the manifest list of {name}; "
        f"there are: {', '.join(sorted(set(offered))) or 'none'}"
    )


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
