"""`load`: the images of an archive, as `docker save` writes it or an OCI layout in a tar, plain or compressed.

The archive is kept in a file while it is read, as its parts come in any order."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import trio

from rootless.images import compression
from rootless.images.storing import (
    LayerBeingStored,
    Progress,
    diff_ids,
    parse_json,
    place_image,
    write_ahead,
)
from rootless.model import platforms, reference
from rootless.model.errors import InvalidParameter, RootlessError
from rootless.registry.media import INDEXES, MAX_CONFIG_BYTES, choose
from rootless.store import files
from rootless.store.layout import NAME_ANNOTATION, Layout, hex_of

REF_ANNOTATION = "org.opencontainers.image.ref.name"


async def load_archive(layout: Layout, chunks: AsyncIterator[bytes], progress: Progress) -> list[str]:
    """Returns the ids of the images. Raises InvalidParameter (archive), RootlessError (disk)."""
    with ExitStack() as cleaning:
        spool = await trio.to_thread.run_sync(_Spool, layout, cleaning)
        await write_ahead(chunks, spool.write)
        return await trio.to_thread.run_sync(spool.load, progress)


class _Spool:
    """The blocking half."""

    def __init__(self, layout: Layout, cleaning: ExitStack) -> None:
        self._layout = layout
        self._directory = cleaning.enter_context(files.temporary_directory(layout.temporary))
        self._file = (self._directory / "archive").open("w+b")
        cleaning.callback(self._file.close)
        self._unpacker = compression.Unpacker()

    def write(self, data: bytes) -> None:
        self._keep(self._unpacker.unpack(data))

    def _keep(self, unpacked: bytes) -> None:
        try:
            self._file.write(unpacked)
        except OSError as error:
            raise RootlessError(f"cannot store the archive: {error.strerror}") from error

    def load(self, progress: Progress) -> list[str]:
        self._keep(self._unpacker.finish())
        try:
            self._file.seek(0)
            with tarfile.open(fileobj=self._file, mode="r:") as archive:
                return _Archive(archive, self._layout, self._directory, progress).load()
        except (tarfile.TarError, RecursionError, EOFError) as error:
            raise InvalidParameter(f"the archive is not a tar that can be read: {error}") from None
        except OSError as error:
            raise RootlessError(f"cannot store the archive: {error.strerror}") from error


class _Archive:
    def __init__(self, archive: tarfile.TarFile, layout: Layout, staging: Path, progress: Progress) -> None:
        self._archive, self._layout, self._staging, self._progress = archive, layout, staging, progress
        self._members = {member.name.removeprefix("./"): member for member in archive.getmembers()}
        self._count = 0

    def load(self) -> list[str]:
        if "manifest.json" in self._members:
            return self._load_docker()
        if "index.json" in self._members:
            index = parse_json(self._small("index.json"), "index.json")
            return [image for entry in _objects(index, "manifests") for image in self._load_oci(entry, "")]
        raise InvalidParameter("the archive has neither manifest.json (docker save) nor index.json (OCI): use `import`")

    # ------------------------------------------------------------------------------------------------ members
    def _open(self, name: str) -> IO[bytes]:
        """A file of the archive; links inside it are followed. Raises InvalidParameter."""
        member = self._members.get(name.removeprefix("./"))
        try:
            file = self._archive.extractfile(member) if member is not None else None
        except KeyError:
            file = None
        if file is None:
            raise InvalidParameter(f"the archive has no file {name!r}")
        return file

    def _small(self, name: str) -> bytes:
        with self._open(name) as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            raise InvalidParameter(f"{name!r} in the archive is longer than {MAX_CONFIG_BYTES >> 20} MiB")
        return data

    def _blob(self, digest: str) -> bytes:
        data = self._small(f"blobs/sha256/{hex_of(digest)}")
        if hashlib.sha256(data).hexdigest() != hex_of(digest):
            raise InvalidParameter(f"the blob {digest} in the archive is damaged")
        return data

    def _store(self, name: str, diff_id: str, made: dict[str, Path], digest: str = "") -> int:
        """A layer that is not here yet; returns the size of its tar."""
        if self._layout.layer(diff_id).exists():
            return (self._layout.layer(diff_id) / "layer.tar").stat().st_size
        if diff_id in made:
            return (made[diff_id] / "layer.tar").stat().st_size
        self._count += 1
        layer = LayerBeingStored(self._staging / str(self._count))
        try:
            with self._open(name) as file:
                while data := file.read(1 << 20):
                    layer.write(data)
            done = layer.finish()
        finally:
            layer.abort()
        if done.diff_id != diff_id or (digest and layer.digest != digest):
            raise InvalidParameter(f"the layer {name!r} in the archive is damaged: it is not {digest or diff_id}")
        made[diff_id] = layer.directory
        return done.size

    # ------------------------------------------------------------------------------------------------ formats
    def _load_docker(self) -> list[str]:
        listed = parse_json(b'{"images":' + self._small("manifest.json") + b"}", "manifest.json")
        return [self._load_docker_image(entry) for entry in _objects(listed, "images")]

    def _load_docker_image(self, entry: Mapping[str, Any]) -> str:
        config = self._small(str(entry.get("Config")))
        wanted = diff_ids(parse_json(config, "the image's configuration"))
        paths, tags = entry.get("Layers") or [], entry.get("RepoTags") or []
        if not isinstance(paths, list) or not isinstance(tags, list) or len(paths) != len(wanted):
            raise InvalidParameter("manifest.json and the configuration do not list the same layers")
        names = [reference.parse(str(tag)).name for tag in tags]
        made: dict[str, Path] = {}
        for path, diff_id in zip(paths, wanted, strict=True):
            self._store(str(path), diff_id, made)
        return self._place(made, config, names)

    def _load_oci(self, entry: Mapping[str, Any], name: str) -> list[str]:
        annotations = entry.get("annotations")
        if isinstance(annotations, dict):
            name = str(annotations.get(NAME_ANNOTATION) or annotations.get(REF_ANNOTATION) or name)
        data = self._blob(str(entry.get("digest")))
        manifest = parse_json(data, "a manifest")
        if manifest.get("mediaType") in INDEXES or "manifests" in manifest:
            chosen = choose(manifest, platforms.here(), name or "the archive")
            return self._load_oci({"digest": chosen}, name)
        config_digest = manifest["config"].get("digest") if isinstance(manifest.get("config"), dict) else None
        config = self._blob(str(config_digest))
        wanted, layers = diff_ids(parse_json(config, "the image's configuration")), _objects(manifest, "layers")
        if len(layers) != len(wanted):
            raise InvalidParameter("the manifest and the configuration do not list the same layers")
        made: dict[str, Path] = {}
        for layer, diff_id in zip(layers, wanted, strict=True):
            digest = str(layer.get("digest"))
            self._store(f"blobs/sha256/{hex_of(digest)}", diff_id, made, digest)
        return [self._place(made, config, [reference.parse(name).name] if name else [])]

    def _place(self, made: dict[str, Path], config: bytes, names: list[str]) -> str:
        image_id = place_image(self._layout, made, config, names, self._staging)
        for name in names:
            self._progress({"stream": f"Loaded image: {reference.parse(name).familiar}\n"})
        if not names:
            self._progress({"stream": f"Loaded image ID: {image_id}\n"})
        return image_id


def _objects(value: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = value.get(name)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise InvalidParameter(f"the archive is damaged: {name} is not a list of objects")
    return found
