"""From layers that stream in to an image that is visible, and back: what import, load and pull have in common.

Nothing is visible before `place_image` writes the entry; what was made by then lies in a staging directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from fuse_overlay import Behind, Layer, LayerError, LayerWriter, merge_tree
from rootless.images import compression
from rootless.images.entries import place_name, place_pulled
from rootless.images.image import Image
from rootless.model.errors import InvalidParameter, RootlessError, disk_trouble
from rootless.registry.documents import parse_json as parse_json  # for its callers too
from rootless.registry.media import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from rootless.store import files
from rootless.store.index import MANIFEST_ANNOTATION, PULLED_ANNOTATION
from rootless.store.layout import Layout, hex_of

BATCH_BYTES = 512 << 10  # a worker thread is asked once for so much: asking costs 0.1 ms
Progress = Callable[[dict[str, Any]], None]


class LayerBeingStored:
    """A layer's tar, plain or compressed, written with its index to `directory`. write() pieces, then finish().

    Both raise InvalidParameter (archive) and RootlessError (disk)."""

    def __init__(self, directory: Path, *, idle_cpus: bool = True) -> None:
        """`idle_cpus`: whether there are any beside the one that unpacks."""
        directory.mkdir()
        self.directory = directory
        self.received = 0
        self._packed_hash = hashlib.sha256()
        self._hashing = Behind(idle_cpus=idle_cpus)
        self._writer = LayerWriter(directory, idle_cpus=idle_cpus)
        self._unpacker = compression.Unpacker(self._writer.write)

    @property
    def digest(self) -> str:
        """Of what came in so far, which is the tar's own where that was not packed."""
        return f"sha256:{self._packed_hash.hexdigest()}" if self._unpacker.packed else self._writer.diff_id

    def write(self, data: bytes) -> None:
        self.received += len(data)
        try:
            if self._unpacker.packed is not False:
                self._hashing.give(self._packed_hash.update, data)
            self._unpacker.unpack(data)
            self._hashing.wait()
        except (LayerError, OSError) as error:
            raise explained(error) from error

    def finish(self) -> Layer:
        try:
            self._hashing.end()
            self._unpacker.finish()
            return self._writer.finish()
        except (LayerError, OSError) as error:
            raise explained(error) from error

    def abort(self) -> None:
        self._hashing.end()
        self._writer.abort()


async def write_ahead(pieces: AsyncIterator[bytes], write: Callable[[bytes], None]) -> None:
    """Give `write`, in worker threads, what comes: one batch is written while the next is received.

    Raises what either raises, by itself and not in a group."""
    send, batches = trio.open_memory_channel[bytes](1)
    failures: list[Exception] = []

    async def receive() -> None:
        async with send:
            gathered: list[bytes] = []
            size = 0
            async for piece in pieces:
                gathered.append(piece)
                size += len(piece)
                if size >= BATCH_BYTES:
                    await send.send(b"".join(gathered))
                    gathered, size = [], 0
            await send.send(b"".join(gathered))

    async def write_batches() -> None:
        async for batch in batches:
            await trio.to_thread.run_sync(write, batch)

    async with trio.open_nursery() as nursery:

        async def noted(work: Callable[[], Awaitable[None]]) -> None:
            try:
                await work()
            except Exception as error:
                failures.append(error)
                nursery.cancel_scope.cancel()

        nursery.start_soon(noted, receive)
        nursery.start_soon(noted, write_batches)
    if failures:
        raise failures[0]


def diff_ids(config: Mapping[str, Any]) -> list[str]:
    """Of an image configuration (image-spec, config.md). Raises InvalidParameter where it has none that can be."""
    rootfs = config.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise InvalidParameter("the image's configuration lists no layers (rootfs.diff_ids)")
    for one in found:
        hex_of(one)
    _check_shapes(config)
    return found


def parse_image(layout: Layout, manifest_digest: str) -> Image:
    """An image without its names. Raises KeyError (a blob is missing), RootlessError (damaged)."""
    manifest = layout.json_blob(manifest_digest)
    try:
        config_digest = manifest["config"]["digest"]
        sizes = tuple(int(layer["size"]) for layer in manifest["layers"])
    except (KeyError, TypeError, ValueError):
        raise RootlessError(f"the manifest {manifest_digest} is damaged") from None
    config = layout.json_blob(config_digest)
    return Image(
        id=config_digest,
        config=config,
        manifest_digest=manifest_digest,
        layers=tuple(diff_ids(config)),
        layer_bytes=sizes,
        manifest_bytes=len(layout.blob(manifest_digest)),
    )


_TEXTS = ("User", "WorkingDir", "StopSignal")
_LISTS = ("Env", "Cmd", "Entrypoint", "OnBuild", "Shell")
_OBJECTS = ("Labels", "Volumes", "ExposedPorts", "Healthcheck")


def _check_shapes(config: Mapping[str, Any]) -> None:
    """What everybody who looks at images relies on (image-spec, config.md). Raises InvalidParameter."""

    def expect(value: object, kind: type, name: str) -> None:
        if value is not None and not isinstance(value, kind):
            raise InvalidParameter(f"the image's configuration has a `{name}` of the wrong kind: {str(value)[:100]!r}")

    inner = config.get("config")
    expect(inner, dict, "config")
    for names, kind in ((_TEXTS, str), (_LISTS, list), (_OBJECTS, dict)):
        for name in names:
            expect((inner or {}).get(name), kind, name)
    for name in _LISTS:
        for word in (inner or {}).get(name) or ():
            expect(word, str, name)
    for value in ((inner or {}).get("Labels") or {}).values():
        expect(value, str, "Labels")
    for name in ("created", "author", "architecture", "os", "variant"):
        expect(config.get(name), str, name)
    expect(config.get("history"), list, "history")
    for row in config.get("history") or ():
        expect(row, dict, "history")
        if row is None:
            raise InvalidParameter("the image's configuration has an empty row in its `history`")
        for name in ("created", "created_by", "comment", "author"):
            expect(row.get(name), str, name)


@dataclass(frozen=True)
class Pulled:
    """What a registry gave: its manifest of this image, and the repository@digest it was asked for as (an index's
    digest, where there is one)."""

    manifest: bytes
    name: str


def place_image(
    layout: Layout,
    made: Mapping[str, Path],
    config: bytes,
    names: Sequence[str],
    staging: Path,
    pulled: Pulled | None = None,
) -> str:
    """Layers (diff id to directory), tree, blobs, and at last the entries that make them an image; returns its id.

    The layers that are not in `made` are held (Layout.hold). Raises InvalidParameter, Conflict (name), RootlessError
    (disk)."""
    layers = diff_ids(parse_json(config, "the image's configuration"))
    places = {layer: made.get(layer) or layout.layer(layer) for layer in layers}
    try:
        manifest = plain_manifest(config, [(layer, _tar_bytes(places[layer])) for layer in layers])
        merged = staging / "tree"
        if not layout.tree(layers).exists():
            merge_tree([places[layer] for layer in layers], merged)
        with layout.changing() as entries:
            _place_parts(layout, made, layers, merged)
            entry = _place_blobs(layout, staging, config, manifest, pulled)
            if pulled is not None:
                for name in names or [""]:
                    place_pulled(entries, entry, name)
            else:
                like = next((one for one in entries if one["digest"] == entry["digest"]), entry)
                if like is entry:
                    entries.append(entry)
                for name in names:
                    place_name(entries, like, name)
    except (LayerError, OSError) as error:
        raise explained(error) from error
    return f"sha256:{hashlib.sha256(config).hexdigest()}"


def _place_parts(layout: Layout, made: Mapping[str, Path], layers: Sequence[str], merged: Path) -> None:
    for diff_id, directory in made.items():
        layout.place_layer(directory, diff_id)
    if missing := [layer for layer in layers if not layout.layer(layer).exists()]:
        raise RootlessError(f"layer {missing[0]} was removed meanwhile; try again")
    for layer in layers:
        layout.link_layer(layer)
    tree = layout.tree(layers)
    if not tree.exists():
        if not merged.exists():
            merge_tree([layout.layer(layer) for layer in layers], merged)
        merged.rename(tree)
    for directory in (layout.layers, layout.trees):
        files.sync_directory(directory)


def _place_blobs(
    layout: Layout, staging: Path, config: bytes, manifest: bytes, pulled: Pulled | None
) -> dict[str, Any]:
    """Returns the entry for index.json."""
    layout.place_blob(staging, config)
    digest = layout.place_blob(staging, manifest)
    entry: dict[str, Any] = {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(manifest)}
    if pulled is not None:
        theirs = layout.place_blob(staging, pulled.manifest)
        entry["annotations"] = {PULLED_ANNOTATION: pulled.name, MANIFEST_ANNOTATION: theirs}
    files.sync_directory(layout.blobs)
    return entry


def _tar_bytes(layer: Path) -> int:
    try:
        return (layer / "layer.tar").stat().st_size
    except FileNotFoundError:
        raise RootlessError(f"layer sha256:{layer.name} was removed meanwhile; try again") from None


def plain_manifest(config: bytes, layers: Sequence[tuple[str, int]]) -> bytes:
    """An OCI manifest over layers that are kept as plain tars: (digest, bytes). The same image has the same one
    wherever it came from."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": OCI_CONFIG,
            "digest": f"sha256:{hashlib.sha256(config).hexdigest()}",
            "size": len(config),
        },
        "layers": [{"mediaType": OCI_LAYER, "digest": digest, "size": size} for digest, size in layers],
    }
    return json.dumps(manifest).encode()


def explained(error: LayerError | OSError) -> RootlessError:
    if isinstance(error, LayerError):
        return InvalidParameter(str(error))
    return RootlessError(f"cannot store the image: {disk_trouble(error)}")
