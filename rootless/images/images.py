"""The images of one data root: found by any of their names, listed, tagged, removed; what they are made of.

Called by the engine. Everything that waits for a disk is done in worker threads; the pieces that make images are in
`importing`, `loading` and `pulling`."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

import trio

from rootless.images import host
from rootless.images.image import Image, ImageSource
from rootless.images.importing import ImportRequest, import_archive
from rootless.images.storing import Progress, place_name
from rootless.model import reference
from rootless.model.errors import Conflict, InvalidParameter, NotFound
from rootless.model.platforms import Platform
from rootless.settings import Settings
from rootless.store.layout import NAME_ANNOTATION, Layout, hex_of

_MIN_ID_PREFIX = 4


class Images:
    """`prepare()` first."""

    def __init__(self, settings: Settings) -> None:
        self.layout = Layout(settings.data_root)
        self._host = host.host_image()
        self._settings = settings

    async def prepare(self) -> None:
        """Make the store's directories. Raises RootlessError."""
        await trio.to_thread.run_sync(self.layout.prepare)

    # ------------------------------------------------------------------------------------------------ finding
    def all(self) -> list[Image]:
        """Every image, tagged or not; one whose blobs are missing is passed over."""
        by_digest: dict[str, list[dict[str, Any]]] = {}
        for entry in self.layout.entries():
            by_digest.setdefault(entry["digest"], []).append(entry)
        found = []
        for digest, entries in by_digest.items():
            try:
                found.append(self._image(digest, entries))
            except KeyError:
                continue
        return [*found, self._host]

    def _image(self, manifest_digest: str, entries: Sequence[dict[str, Any]]) -> Image:
        manifest = self.layout.json_blob(manifest_digest)
        config_digest = manifest["config"]["digest"]
        config = self.layout.json_blob(config_digest)
        annotations = [entry.get("annotations") or {} for entry in entries]
        names = tuple(sorted(a[NAME_ANNOTATION] for a in annotations if a.get(NAME_ANNOTATION)))
        digests = {f"{reference.parse(name).familiar_repository}@{manifest_digest}" for name in names}
        layers = tuple(config.get("rootfs", {}).get("diff_ids", []))
        return Image(
            id=config_digest,
            config=config,
            manifest_digest=manifest_digest,
            layers=layers,
            names=names,
            digests=tuple(sorted(digests)),
            size=sum(self._layer_bytes(layer) for layer in layers),
        )

    def _layer_bytes(self, diff_id: str) -> int:
        try:
            return (self.layout.layer(diff_id) / "layer.tar").stat().st_size
        except OSError:
            return 0

    def resolve(self, text: str) -> Image:
        """By name, name@digest, id, or a prefix of the id. Raises NotFound, InvalidParameter (ambiguous)."""
        images = self.all()
        wanted = text.removeprefix("sha256:")
        if len(wanted) >= _MIN_ID_PREFIX and set(wanted) <= set("0123456789abcdef"):
            matching = {image.id: image for image in images if hex_of(image.id).startswith(wanted)}
            if len(matching) > 1:
                raise InvalidParameter(f"ambiguous image id prefix {text!r}: {len(matching)} images have it")
            if matching:
                return next(iter(matching.values()))
        try:
            asked = reference.parse(text)
        except InvalidParameter:
            raise NotFound(f"No such image: {text}") from None
        for image in images:
            if asked.digest:
                if asked.digest in (image.manifest_digest, image.id):
                    return image
            elif asked.name in image.names:
                return image
        raise NotFound(f"No such image: {asked.familiar}")

    def source(self, image: Image) -> ImageSource:
        """What to mount for this image."""
        if image is self._host:
            return host.host_source()
        tree = self.layout.tree(image.layers)
        return ImageSource(tree.name[:32], "tree", tree, tuple(self.layout.layer(layer) for layer in image.layers))

    # ------------------------------------------------------------------------------------------------ making
    async def import_image(self, chunks: AsyncIterator[bytes], request: ImportRequest) -> Image:
        """A root file system's tar, plain or compressed, as an image. Raises InvalidParameter, RootlessError."""
        image_id = await import_archive(self.layout, chunks, request)
        return self.resolve(image_id)

    async def load(self, chunks: AsyncIterator[bytes], progress: Progress) -> None:
        """The images of a `docker save` or OCI archive. Raises InvalidParameter, RootlessError."""
        from rootless.images.loading import load_archive

        await load_archive(self.layout, chunks, progress)

    async def pull(
        self, wanted: reference.Reference, platform: Platform, auth: dict[str, str] | None, progress: Progress
    ) -> None:
        """An image from its registry. Raises NotFound, InvalidParameter (damaged), RootlessError."""
        from rootless.images.pulling import pull_image  # httpx: 100 ms that only a pull pays

        await pull_image(self.layout, self._settings, wanted, platform, auth, progress)

    async def tag(self, image: Image, repository: str, tag: str) -> None:
        """Give an image a further name, taken from another image if that has it. Raises InvalidParameter."""
        name = reference.parse(f"{repository}:{tag}" if tag else repository).name
        if image is self._host:
            raise Conflict("the image host is this machine itself: it cannot be given other names, nor its own away")
        await trio.to_thread.run_sync(set_name, self.layout, image.manifest_digest, name)

    # ------------------------------------------------------------------------------------------------ removing
    async def remove(self, text: str, *, force: bool, used_by: Collection[tuple[str, str]]) -> list[dict[str, str]]:
        """docker's rmi: a name loses its tag; the last name, or an id, deletes the image. `used_by` are (image id,
        container id) pairs. Raises NotFound, Conflict."""
        image = self.resolve(text)
        if image is self._host:
            raise Conflict("conflict: unable to delete host: it is this machine's own root directory")
        by_id = hex_of(image.id).startswith(text.removeprefix("sha256:")) and len(text) >= _MIN_ID_PREFIX
        if by_id and len(image.names) > 1 and not force:
            raise Conflict(
                f"conflict: unable to delete {hex_of(image.id)[:12]} (must be forced) - "
                "image is referenced in multiple repositories"
            )
        going = list(image.names) if by_id else [reference.parse(text).name]
        last = set(going) >= set(image.names)
        user = next((container for used, container in used_by if used == image.id), None)
        if last and user is not None and (by_id or not force):
            raise Conflict(
                f"conflict: unable to remove repository reference {text!r} (must force) - container {user[:12]} is "
                f"using its referenced image {hex_of(image.id)[:12]}"
            )
        return await trio.to_thread.run_sync(self._remove, image, going, last and user is None)

    def _remove(self, image: Image, names: Sequence[str], delete: bool) -> list[dict[str, str]]:
        with self.layout.changing() as entries:
            mine = [entry for entry in entries if entry["digest"] == image.manifest_digest]
            kept = [e for e in mine if (e.get("annotations") or {}).get(NAME_ANNOTATION) not in (*names, None)]
            entries[:] = [entry for entry in entries if entry["digest"] != image.manifest_digest] + kept
            if not kept and not delete:
                entries.append({key: value for key, value in mine[0].items() if key != "annotations"})
        done = [{"Untagged": reference.parse(name).familiar} for name in names]
        if delete:
            done += [{"Deleted": image.id}, *({"Deleted": layer} for layer in self.collect())]
        return done

    def collect(self) -> list[str]:
        """Remove blobs, trees and layers that no image needs; returns the diff ids of the layers."""
        with self.layout.changing():  # nobody may name an image meanwhile
            images = [image for image in self.all() if image is not self._host]
            blobs = {hex_of(image.manifest_digest) for image in images} | {hex_of(image.id) for image in images}
            layers = {hex_of(layer) for image in images for layer in image.layers}
            trees = {self.layout.tree(image.layers).name for image in images}
            for path in (*self.layout.blobs_on_disk(), *self.layout.trees.iterdir()):
                if path.name not in blobs | trees:
                    path.unlink(missing_ok=True)
            removed = []
            for path in self.layout.layers.iterdir():
                if path.name not in layers:
                    shutil.rmtree(path, ignore_errors=True)
                    removed.append(f"sha256:{path.name}")
            return removed


def set_name(layout: Layout, manifest_digest: str, name: str) -> None:
    """Point a name at a manifest that is stored. Raises NotFound where it has just been removed."""
    with layout.changing() as entries:
        if not any(entry["digest"] == manifest_digest for entry in entries):
            raise NotFound(f"No such image: {manifest_digest}")
        place_name(entries, manifest_digest, name)
