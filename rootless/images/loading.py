"""`load`: the images of an archive, plain or compressed, in one pass: each layer is unpacked, hashed and indexed as it
comes, wherever in the archive it is, and what the images are is found out at the end.

Nothing of it is visible before all of the archive has been read and every image of it was found to be whole."""

from __future__ import annotations

import hashlib
import posixpath
import queue
import tarfile
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import trio

from rootless.images import compression
from rootless.images.archive import Described, describe
from rootless.images.storing import LayerBeingStored, Progress, parse_json, place_image, write_ahead
from rootless.model import platforms, reference
from rootless.model.errors import InvalidParameter, RootlessError
from rootless.model.platforms import Platform
from rootless.registry.media import MAX_CONFIG_BYTES
from rootless.store import files
from rootless.store.layout import Layout

MAX_SMALL_BYTES = 256 << 20  # manifests and configurations of one archive, which are kept in memory
MAX_LINKS = 10_000
_READ_BYTES = 1 << 20


async def load_archive(
    layout: Layout, chunks: AsyncIterator[bytes], progress: Progress, platform: Platform | None = None
) -> list[str]:
    """Returns the ids of the images. Raises InvalidParameter (archive), NotFound (platform), RootlessError (disk)."""
    with ExitStack() as cleaning:
        staging = await trio.to_thread.run_sync(cleaning.enter_context, files.temporary_directory(layout.temporary))
        reading = _Reading(layout, staging)
        cleaning.callback(reading.stop)
        await write_ahead(chunks, reading.write)
        return await trio.to_thread.run_sync(reading.finish, progress, platform or platforms.here())


class _Reading:
    """The blocking half: what is written here, a thread reads as a tar."""

    def __init__(self, layout: Layout, staging: Path) -> None:
        self._contents = _Contents(layout, staging)
        self._unpacker = compression.Unpacker(self._give)
        self._pipe = _Pipe()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._read, name="load", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        self._unpacker.unpack(data)

    def _give(self, data: bytes) -> None:
        if not self._pipe.write(data):
            self._thread.join()
            raise self._failure or RootlessError("the archive is not read any more")

    def finish(self, progress: Progress, platform: Platform) -> list[str]:
        self._unpacker.finish()
        self._pipe.end()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._contents.place(progress, platform)

    def stop(self) -> None:
        """Idempotent."""
        self._pipe.end()
        self._thread.join()

    def _read(self) -> None:
        try:
            with tarfile.open(fileobj=cast(IO[bytes], self._pipe), mode="r|", bufsize=_READ_BYTES) as archive:
                for member in archive:
                    self._contents.take(archive, member)
                    archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            while self._pipe.read(_READ_BYTES):
                pass  # padding
        except (tarfile.TarError, RecursionError, EOFError) as error:
            self._failure = InvalidParameter(f"the archive is not a tar that can be read: {error}")
        except OSError as error:
            self._failure = RootlessError(f"cannot store the archive: {error.strerror}")
        except Exception as error:
            self._failure = error
        finally:
            self._pipe.refuse()


class _Pipe:
    """Bytes from one thread to another, a few pieces ahead."""

    def __init__(self) -> None:
        self._pieces: queue.Queue[bytes | None] = queue.Queue(4)
        self._rest = memoryview(b"")
        self._ended = False
        self._refused = threading.Event()

    def write(self, data: bytes) -> bool:
        """False where nobody reads any more."""
        while data and not self._refused.is_set():
            try:
                self._pieces.put(data, timeout=0.2)
                return True
            except queue.Full:
                continue
        return not self._refused.is_set()

    def end(self) -> None:
        while not self._ended and not self._refused.is_set():
            try:
                self._pieces.put(None, timeout=0.2)
                return
            except queue.Full:
                continue

    def refuse(self) -> None:
        self._refused.set()

    def read(self, size: int) -> bytes:
        parts = []
        while size > 0 and not self._ended:
            if not self._rest:
                piece = self._pieces.get()
                if piece is None:
                    self._ended = True
                    break
                self._rest = memoryview(piece)
            parts.append(self._rest[:size])
            self._rest = self._rest[size:]
            size -= len(parts[-1])
        return b"".join(parts)


@dataclass
class _Layer:
    """A file of the archive that is a layer, or not: then `problem` says why. `directory` None: the store had it."""

    diff_id: str
    digest: str
    directory: Path | None
    problem: Exception | None = None


class _Contents:
    """What has come of an archive."""

    def __init__(self, layout: Layout, staging: Path) -> None:
        self._layout, self._staging = layout, staging
        self._small: dict[str, bytes] = {}
        self._small_bytes = 0
        self._layers: dict[str, _Layer] = {}
        self._links: dict[str, str] = {}

    def take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = posixpath.normpath(member.name)
        if member.issym() or member.islnk():
            target = member.linkname
            if member.issym():
                target = posixpath.join(posixpath.dirname(name), target)
            self._links[name] = posixpath.normpath(target)
            if len(self._links) > MAX_LINKS:
                raise InvalidParameter("the archive has too many links")
            return
        if not member.isreg():
            return
        content = archive.extractfile(member)
        assert content is not None
        first = content.read(member.size if member.size <= MAX_CONFIG_BYTES else 512)
        if member.size <= MAX_CONFIG_BYTES and _is_json(first):
            self._small[name] = first
            self._small_bytes += len(first)
            if self._small_bytes > MAX_SMALL_BYTES:
                raise InvalidParameter(f"the archive has more than {MAX_SMALL_BYTES >> 20} MiB of configurations")
            return
        self._layers[name] = self._store(first, content, name)

    def _store(self, first: bytes, content: IO[bytes], name: str) -> _Layer:
        expected = f"sha256:{posixpath.basename(name)}" if name.startswith("blobs/sha256/") else ""
        if len(expected) == 71 and expected in self._layout.hold(self._staging, [*self._held(), expected]):
            return _Layer(expected, expected, None)  # a layer that is here, not packed
        layer = LayerBeingStored(self._staging / f"layer-{len(self._layers)}")
        try:
            layer.write(first)
            while data := content.read(_READ_BYTES):
                layer.write(data)
            made = layer.finish()
            return _Layer(made.diff_id, layer.digest, layer.directory)
        except InvalidParameter as error:  # it may be no layer at all; if an image wants it, this is told
            return _Layer("", "", None, error)
        finally:
            layer.abort()

    def _held(self) -> list[str]:
        return [layer.diff_id for layer in self._layers.values() if layer.directory is None and layer.diff_id]

    # ------------------------------------------------------------------------------------------------ the end
    def place(self, progress: Progress, platform: Platform) -> list[str]:
        images = describe(self._read_small, platform)
        wanted = {diff_id for image in images for _, diff_id, _ in image.layers}
        here = self._layout.hold(self._staging, wanted)
        directories: dict[str, Path] = {}
        for image in images:
            for path, diff_id, digest in image.layers:
                if (directory := self._checked(path, diff_id, digest, here)) is not None:
                    directories[diff_id] = directory
        return [self._place(image, directories, progress) for image in images]

    def _read_small(self, name: str) -> bytes | None:
        found = self._small.get(self._followed(name))
        if found is not None and name.startswith("blobs/sha256/"):
            digest = hashlib.sha256(found).hexdigest()
            if digest != posixpath.basename(name):
                raise InvalidParameter(f"the blob sha256:{posixpath.basename(name)} in the archive is damaged")
        return found

    def _followed(self, name: str) -> str:
        name = posixpath.normpath(name)
        for _ in range(20):
            if name not in self._links:
                break
            name = self._links[name]
        return name

    def _checked(self, path: str, diff_id: str, digest: str, here: set[str]) -> Path | None:
        """The directory of a layer that is new. Raises InvalidParameter where it is not what it should be."""
        layer = self._layers.get(self._followed(path))
        if layer is None and diff_id in here:
            return None
        if layer is None:
            raise InvalidParameter(f"the archive has no file {path!r}")
        if layer.problem is not None:
            raise InvalidParameter(f"the layer {path!r} in the archive is damaged: {layer.problem}")
        if layer.diff_id != diff_id or (digest and layer.digest != digest):
            raise InvalidParameter(f"the layer {path!r} in the archive is damaged: it is not {digest or diff_id}")
        return layer.directory

    def _place(self, image: Described, directories: dict[str, Path], progress: Progress) -> str:
        mine = [diff_id for _, diff_id, _ in image.layers]
        made = {d: directories[d] for d in mine if d in directories and not self._layout.layer(d).exists()}
        image_id = place_image(self._layout, made, image.config, image.names, self._staging)
        (self._staging / "tree").unlink(missing_ok=True)
        for name in image.names:
            progress({"stream": f"Loaded image: {reference.parse(name).familiar}\n"})
        if not image.names:
            progress({"stream": f"Loaded image ID: {image_id}\n"})
        return image_id


def _is_json(data: bytes) -> bool:
    if data.lstrip()[:1] not in (b"{", b"["):
        return False
    try:
        parse_json(b'{"value":' + data + b"}", "")
    except InvalidParameter:
        return False
    return True
