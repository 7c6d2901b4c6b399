"""`import`: the tar of a root file system becomes an image of one layer. Streams; nothing is unpacked."""

from __future__ import annotations

import json
import platform
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trio

from fuse_overlay import Layer, LayerError, LayerWriter, merge_tree
from rootless.images import changes, compression
from rootless.images.image import HOST_NAME
from rootless.model import reference
from rootless.model.errors import Conflict, InvalidParameter, RootlessError
from rootless.store import files
from rootless.store.layout import NAME_ANNOTATION, Layout

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True)
class ImportRequest:
    """`name` is a reference or nothing; `changes` Dockerfile instructions; `message` goes into the history."""

    name: str = ""
    changes: tuple[str, ...] = ()
    message: str = ""
    architecture: str = ""


def architecture() -> str:
    """This machine's, in the image specification's words."""
    machine = platform.machine()
    return ARCHITECTURES.get(machine, machine)


async def import_archive(layout: Layout, chunks: AsyncIterator[bytes], request: ImportRequest) -> str:
    """Returns the new image's id. Raises InvalidParameter (archive, changes, name), RootlessError (disk)."""
    name = reference.parse(request.name).name if request.name else ""
    config = changes.apply({}, request.changes)  # refused before a byte is read
    with ExitStack() as cleaning:
        making = await trio.to_thread.run_sync(_Making, layout, cleaning)
        async for chunk in chunks:
            await trio.to_thread.run_sync(making.write, chunk)
        return await trio.to_thread.run_sync(making.finish, name, config, request)


class _Making:
    """The blocking half: one layer being written in a temporary directory."""

    def __init__(self, layout: Layout, cleaning: ExitStack) -> None:
        self._layout = layout
        self._directory: Path = cleaning.enter_context(files.temporary_directory(layout.temporary))
        self._layer_directory = self._directory / "layer"
        self._layer_directory.mkdir()
        self._writer = LayerWriter(self._layer_directory)
        cleaning.callback(self._writer.abort)
        self._first = b""
        self._unpacker: compression.Unpacker | None = None

    def write(self, data: bytes) -> None:
        if self._unpacker is None:
            self._first += data
            if len(self._first) < compression.MAGIC_BYTES:
                return
            self._unpacker = compression.unpacker(compression.detect(self._first))
            data = self._first
        try:
            self._writer.write(self._unpacker.unpack(data))
        except (LayerError, OSError) as error:
            raise _explained(error) from error

    def finish(self, name: str, config: dict[str, Any], request: ImportRequest) -> str:
        try:
            if self._unpacker is None:
                self._writer.write(self._first)
            else:
                self._unpacker.finish()
            layer = self._writer.finish()
            merge_tree([self._layer_directory], self._directory / "tree")
            return self._place(layer, name, config, request)
        except (LayerError, OSError) as error:
            raise _explained(error) from error

    def _place(self, layer: Layer, name: str, config: dict[str, Any], request: ImportRequest) -> str:
        """Layer, tree, blobs, and at last the entry that makes them an image. Under the lock: see Images.collect."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        image_config = {
            "created": now,
            "architecture": request.architecture or architecture(),
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
            "history": [{"created": now, "comment": request.message or "Imported from -"}],
        }
        encoded = json.dumps(image_config).encode()
        with self._layout.changing() as entries:
            self._layout.place_layer(self._layer_directory, layer.diff_id)
            tree = self._layout.tree([layer.diff_id])
            if not tree.exists():
                (self._directory / "tree").rename(tree)
                files.sync_directory(tree.parent)
            config_digest = self._layout.put_blob(encoded)
            manifest = {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": {"mediaType": OCI_CONFIG, "digest": config_digest, "size": len(encoded)},
                "layers": [{"mediaType": OCI_LAYER, "digest": layer.diff_id, "size": layer.size}],
            }
            data = json.dumps(manifest).encode()
            digest = self._layout.put_blob(data)
            entries.append({"mediaType": OCI_MANIFEST, "digest": digest, "size": len(data)})
            place_name(entries, digest, name)
        return config_digest


def place_name(entries: list[dict[str, Any]], digest: str, name: str) -> None:
    """Give the entry of `digest` a name; an image that had it becomes untagged (in place)."""
    if not name:
        return
    if name == HOST_NAME:
        raise Conflict("the image host is this machine itself: it cannot be given other names, nor its own away")
    for entry in list(entries):
        if (entry.get("annotations") or {}).get(NAME_ANNOTATION) == name:
            others = [e for e in entries if e["digest"] == entry["digest"] and e is not entry]
            if others:
                entries.remove(entry)
            else:
                entry.pop("annotations")
    bare = next(entry for entry in entries if entry["digest"] == digest)
    if bare.get("annotations"):
        entries.append({**bare, "annotations": {NAME_ANNOTATION: name}})
    else:
        bare["annotations"] = {NAME_ANNOTATION: name}


def _explained(error: LayerError | OSError) -> RootlessError:
    if isinstance(error, LayerError):
        return InvalidParameter(str(error))
    where = f" ({error.filename})" if error.filename else ""
    return RootlessError(f"cannot store the image: {error.strerror}{where}")
