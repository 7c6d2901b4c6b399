"""`save`: images as an archive, written as it is sent: the layers are in the store as they are in the archive."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

import trio

from fuse_overlay import Entry, TarWriter
from rootless.images.archive import INDEX_NAME, LAYOUT_NAME, MANIFEST_NAME, blob_name, index_json, manifest_json
from rootless.images.image import Image
from rootless.model import reference
from rootless.model.errors import Conflict, InvalidParameter, NotFound, RootlessError
from rootless.store.layout import Layout

PIPE_BYTES = 1 << 20


@dataclass(frozen=True)
class Saved:
    """An image and the names it gets in the archive."""

    image: Image
    names: tuple[str, ...]


def select(texts: Sequence[str], every: Sequence[Image], resolve: Callable[[str], Image]) -> list[Saved]:
    """What `save` writes for the names a user gives: a name takes itself along, a repository all its tags, an id or a
    digest none. Raises NotFound, Conflict (host), InvalidParameter."""
    if not texts:
        raise InvalidParameter("no image to save")
    names: dict[str, list[str]] = {}
    images: dict[str, Image] = {}
    for text in texts:
        of_repository = _of_repository(text, every)
        for image, going in of_repository or [_of_name(text, resolve)]:
            if not image.manifest_digest:
                raise Conflict("the image host is this machine itself and cannot be saved")
            images[image.id] = image
            names.setdefault(image.id, []).extend(going)
    return [Saved(images[image_id], tuple(sorted(set(names[image_id])))) for image_id in images]


def _of_repository(text: str, every: Sequence[Image]) -> list[tuple[Image, list[str]]]:
    if "@" in text or ":" in text.rpartition("/")[2]:
        return []
    try:
        repository = reference.parse(text).repository
    except InvalidParameter:
        return []
    found = [(image, [name for name in image.names if name.rpartition(":")[0] == repository]) for image in every]
    return [(image, names) for image, names in found if names]


def _of_name(text: str, resolve: Callable[[str], Image]) -> tuple[Image, list[str]]:
    image = resolve(text)
    if image.id.removeprefix("sha256:").startswith(text.removeprefix("sha256:")):
        return image, []
    asked = reference.parse(text)
    return image, [name for name in image.names if name == asked.name and not asked.digest]


@dataclass
class Opened:
    """What is to be saved, open, so that nobody can remove it meanwhile. `close()` at the end, whatever happens."""

    saved: Sequence[Saved]
    manifests: dict[str, bytes] = field(default_factory=dict)  # by image id, as are the configurations
    configs: dict[str, bytes] = field(default_factory=dict)
    tars: dict[str, int] = field(default_factory=dict)  # diff id -> descriptor

    def close(self) -> None:
        while self.tars:
            os.close(self.tars.popitem()[1])


def open_images(layout: Layout, saved: Sequence[Saved]) -> Opened:
    """Raises NotFound where one has just been removed, RootlessError (damaged)."""
    opened = Opened(saved)
    try:
        for one in saved:
            opened.manifests[one.image.id] = layout.blob(one.image.manifest_digest)
            opened.configs[one.image.id] = layout.blob(one.image.id)
            for layer in one.image.layers:
                if layer not in opened.tars:
                    opened.tars[layer] = os.open(layout.layer(layer) / "layer.tar", os.O_RDONLY | os.O_CLOEXEC)
    except (KeyError, OSError) as error:
        opened.close()
        raise NotFound(f"No such image: {one.image.id}: a part of it is missing ({error})") from error
    except BaseException:
        opened.close()
        raise
    return opened


async def save(opened: Opened, form: str) -> AsyncGenerator[bytes, None]:
    """The archive's bytes; `form` is of archive.FORMATS. Raises RootlessError where a file cannot be read. Once it has
    begun it closes what is open."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    failure: list[Exception] = []

    def write() -> None:
        try:
            _write(opened, form, writing)
        except BrokenPipeError:
            return  # nobody wants it any more
        except Exception as error:
            failure.append(error)
        finally:
            os.close(writing)

    writer = threading.Thread(target=write, name="save", daemon=True)  # ends when the pipe is closed on either side
    try:
        writer.start()
        async with trio.lowlevel.FdStream(reading) as stream:
            while data := await stream.receive_some(PIPE_BYTES):
                yield bytes(data)
    finally:
        writer.join()
        opened.close()
    if failure:
        raise RootlessError(f"cannot save: {failure[0]}") from failure[0]


def _write(opened: Opened, form: str, out: int) -> None:
    tar = TarWriter(out)

    def small(name: str, data: bytes) -> None:
        tar.add_bytes(Entry(name.encode(), stat.S_IFREG | 0o644), data)

    for directory in (b"blobs", b"blobs/sha256"):
        tar.add(Entry(directory, stat.S_IFDIR | 0o755))
    small(LAYOUT_NAME, b'{"imageLayoutVersion":"1.0.0"}')
    rows = [(one.image.manifest_digest, len(opened.manifests[one.image.id]), one.names) for one in opened.saved]
    small(INDEX_NAME, index_json(rows))
    if form == "docker":
        small(MANIFEST_NAME, manifest_json([(one.image.id, one.image.layers, one.names) for one in opened.saved]))
    for one in opened.saved:
        small(blob_name(one.image.manifest_digest), opened.manifests[one.image.id])
        small(blob_name(one.image.id), opened.configs[one.image.id])
    for layer, fd in opened.tars.items():
        tar.add(Entry(blob_name(layer).encode(), stat.S_IFREG | 0o644, size=os.fstat(fd).st_size), fd)
    tar.end()
