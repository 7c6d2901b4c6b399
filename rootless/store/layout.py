"""The data root: an OCI image layout (image-spec, image-layout.md) beside the layers and trees.

    images/oci-layout, index.json        names are annotations of the entries of index.json
    images/blobs/sha256/<hex>            manifests and configurations; a layer's is a link to its layer.tar
    images/lock                          held while index.json is changed or anything is removed
    layers/<diff id hex>/{layer.tar,index}
    trees/<chain id hex>
    uses/<engine>/<container id>         which image a container of that engine needs (see `uses`)
    tmp/new-*                            what is being made
    tmp/*/holds                          the layers that it, or an image that will be pulled on, counts on
    tmp/dead-*                           what is being removed

Blobs, layers and trees are named by their content and never change. Only index.json does, under a lock: it is the root
from which everything in use is found. Each entry of it is a manifest over the unpacked layers, so that any reader of
OCI layouts finds every blob; the manifest that a registry had handed out is kept beside it (MANIFEST_ANNOTATION).

`additional` are data roots of others, only read: what is not here is looked for there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rootless.model.errors import RootlessError
from rootless.store import files, index
from rootless.store.index import MANIFEST_ANNOTATION

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
HOLDS = "holds"
_REPAIR = "`rootless system check --repair` makes it anew"


class DamagedIndex(RootlessError):
    """An index.json that has to be made anew (Layout.rebuild)."""


class Layout:
    """The directories of one data root, made where missing. Blocking; called from worker threads."""

    def __init__(self, data_root: Path, additional: Sequence[Path] = ()) -> None:
        self.root = data_root
        self.additional = tuple(Layout(path) for path in additional)
        self.images = data_root / "images"
        self.layers = data_root / "layers"
        self.trees = data_root / "trees"
        self.temporary = data_root / "tmp"
        self.blobs = self.images / "blobs" / "sha256"
        self._index = self.images / "index.json"
        self._read: tuple[tuple[int, ...], list[dict[str, Any]]] = (), []

    def prepare(self) -> None:
        """Make what is missing and remove what dead processes left. Raises RootlessError naming the directory."""
        try:
            for directory in (self.blobs, self.layers, self.trees, self.temporary):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (self.images / "oci-layout").exists():
                files.write_file(self.images / "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
            if not self._index.exists():
                with files.locked(self.images / "lock"):
                    if not self._index.exists() and not self._has_images():
                        self._write([])
            if left := list(self.images.glob(".*.*")):  # of an index.json whose writer was killed
                with files.locked(self.images / "lock"):
                    for path in left:
                        path.unlink(missing_ok=True)
            files.remove_leftovers(self.temporary)
            for dead in self.temporary.glob("dead-*"):
                shutil.rmtree(dead, ignore_errors=True)
        except OSError as error:
            raise RootlessError(f"cannot use the data root {self.root}: {error.strerror} ({error.filename})") from error
        for other in self.additional:
            if not os.access(other._index, os.R_OK):
                raise RootlessError(
                    f"cannot use the additional store {other.root}: {other._index} is missing or not readable"
                )

    # ------------------------------------------------------------------------------------------------ blobs
    def blob_path(self, digest: str) -> Path:
        return self.blobs / hex_of(digest)

    def blob(self, digest: str) -> bytes:
        """Raises KeyError where it is missing, RootlessError where it is not what its name says."""
        for store in (self, *self.additional):
            try:
                data = store.blob_path(digest).read_bytes()
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                continue
            if hashlib.sha256(data).hexdigest() != hex_of(digest):
                raise RootlessError(f"blob {digest} is damaged on disk; remove the image and get it again")
            return data
        raise KeyError(digest)

    def json_blob(self, digest: str) -> dict[str, Any]:
        try:
            value = json.loads(self.blob(digest))
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise RootlessError(f"blob {digest} is not a JSON object")
        return value

    def place_blob(self, staging: Path, data: bytes) -> str:
        """Store a manifest or configuration, under the lock (else `collect` may take it away); returns its digest."""
        digest = hashlib.sha256(data).hexdigest()
        if not (self.blobs / digest).exists():
            files.write_new(staging / digest, data)
            os.rename(staging / digest, self.blobs / digest)
        return f"sha256:{digest}"

    # ------------------------------------------------------------------------------------------------ names
    def entries(self) -> list[dict[str, Any]]:
        """The descriptors of index.json. An entry without the name annotation is an untagged image.

        Raises DamagedIndex, also where it is missing beside images, and RootlessError where it cannot be read."""
        try:
            status = os.stat(self._index)
        except OSError:
            return self._read_entries()
        seen = status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size
        if seen != self._read[0]:
            self._read = seen, self._read_entries()
        return self._read[1]

    def look_again(self) -> None:
        """Do not trust what has been read before: on a network file system it may be old."""
        files.look_again(self.images)
        self._read = (), []

    def _read_entries(self) -> list[dict[str, Any]]:
        data = self._read_index()
        if data is None:
            if self._has_images():
                raise DamagedIndex(f"{self._index} is missing, and there are images; {_REPAIR}")
            return []
        try:
            return index.parse(data)
        except ValueError as error:
            raise DamagedIndex(f"{self._index} is damaged ({error}); {_REPAIR}") from error

    def _read_index(self) -> bytes | None:
        try:
            return self._index.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise RootlessError(f"cannot read {self._index}: {error.strerror}") from error

    def _has_images(self) -> bool:
        """Whether a missing index.json is a loss: nothing may be removed then for not being in it."""
        return any(directory.is_dir() and _visible(directory) for directory in (self.blobs, self.layers))

    @contextmanager
    def changing(self) -> Iterator[list[dict[str, Any]]]:
        """The entries, to change in place; written when the block ends well. Then registries' manifests are removed
        that none of them names any more."""
        with files.locked(self.images / "lock"):
            for directory in (self.images, self.blobs, self.layers, self.trees, self.temporary):
                files.look_again(directory)
            entries = self._read_entries()
            before, manifests = json.dumps(entries), _registries_manifests(entries)
            yield entries
            if json.dumps(entries) != before:
                self._write(entries)
                needed = _registries_manifests(entries) | {entry["digest"] for entry in entries}
                for digest in manifests - needed:
                    with contextlib.suppress(OSError, RootlessError):  # `collect` comes by here again
                        self.blob_path(digest).unlink()

    def rebuild(self, found: Callable[[], list[dict[str, Any]]]) -> None:
        """Write an index.json in the place of a damaged one: what can be used of it, and those `found` that are not in
        it. Raises RootlessError."""
        with files.locked(self.images / "lock"):
            kept = index.salvage(self._read_index() or b"")
            digests = {entry["digest"] for entry in kept}
            self._write([*kept, *(entry for entry in found() if entry["digest"] not in digests)])

    def _write(self, entries: list[dict[str, Any]]) -> None:
        made = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        try:
            files.write_file(self._index, json.dumps(made, indent=1).encode())
        except OSError as error:
            raise RootlessError(f"cannot write {self._index}: {error.strerror}") from error

    # ------------------------------------------------------------------------------------------------ layers
    def layer(self, diff_id: str) -> Path:
        """Where a layer is; where it would be, if it is nowhere."""
        return self._find(f"layers/{hex_of(diff_id)}")

    def tree(self, diff_ids: Sequence[str]) -> Path:
        return self._find(f"trees/{hex_of(chain_id(diff_ids))}")

    def _find(self, path: str) -> Path:
        here = self.root / path
        if not self.additional or here.exists():
            return here
        return next((found for other in self.additional if (found := other._find(path)).exists()), here)

    def hold(self, staging: Path, diff_ids: Iterable[str]) -> set[str]:
        """Those of the layers that are here. They stay as long as the temporary directory `staging` is there."""
        wanted = list(diff_ids)
        with self.changing():
            files.write_file(staging / HOLDS, json.dumps(wanted).encode())
            return {diff_id for diff_id in wanted if self.layer(diff_id).exists()}

    def place_layer(self, made: Path, diff_id: str) -> None:
        """Move a finished layer directory to its place, under the lock."""
        target = self.layers / hex_of(diff_id)
        if not target.exists():
            os.rename(made, target)

    def link_layer(self, diff_id: str) -> None:
        """Make a layer a blob of the image layout, under the lock."""
        link = self.blob_path(diff_id)
        directory = self.layer(diff_id)
        own = directory.parent == self.layers
        target = f"../../../layers/{directory.name}/layer.tar" if own else str(directory / "layer.tar")
        if not os.path.lexists(link):
            os.symlink(target, link)
        elif link.is_symlink() and os.readlink(link) != target:
            temporary = link.with_name(f".{link.name}")
            temporary.unlink(missing_ok=True)
            os.symlink(target, temporary)
            os.rename(temporary, link)

    # ------------------------------------------------------------------------------------------------ removal
    def held(self) -> set[str]:
        """The layers that images in the making count on, under the lock."""
        files.remove_leftovers(self.temporary)
        found: set[str] = set()
        for path in self.temporary.glob(f"*/{HOLDS}"):
            try:
                found.update(json.loads(path.read_bytes()))
            except FileNotFoundError:
                continue
        return found

    def unindex(self, diff_ids: Sequence[str]) -> None:
        """Make room: remove the tree of these layers and their indexes (a single one's is the same file), which whoever
        else needs them makes anew. Raises OSError."""
        (self.trees / hex_of(chain_id(diff_ids))).unlink(missing_ok=True)
        for diff_id in diff_ids:
            (self.layers / hex_of(diff_id) / "index").unlink(missing_ok=True)

    def sweep(self, blobs: Collection[str], layers: Collection[str], trees: Collection[str]) -> tuple[list[str], Path]:
        """Take what is not in these (names of files) out of sight, under the lock. Returns the layers' diff ids and a
        directory to remove when the lock is given back."""
        for path in (*_visible(self.blobs), *_visible(self.trees)):
            if path.name not in (blobs if path.parent == self.blobs else trees):
                path.unlink(missing_ok=True)
        dead = Path(tempfile.mkdtemp(prefix="dead-", dir=self.temporary))  # which wants room
        removed = []
        for path in _visible(self.layers):
            if path.name not in layers:
                os.rename(path, dead / path.name)
                removed.append(f"sha256:{path.name}")
        return removed, dead


def _registries_manifests(entries: Iterable[dict[str, Any]]) -> set[str]:
    found = ((entry.get("annotations") or {}).get(MANIFEST_ANNOTATION) for entry in entries)
    return {digest for digest in found if isinstance(digest, str)}


def _visible(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if not path.name.startswith(".")]


def hex_of(digest: str) -> str:
    """The hex of "sha256:<hex>"; nothing else may become a path. Raises RootlessError."""
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise RootlessError(f"unsupported digest {digest!r}")
    return value


def chain_id(diff_ids: Sequence[str]) -> str:
    """OCI image-spec, config.md, "Layer ChainID"."""
    chain = diff_ids[0] if diff_ids else "sha256:" + hashlib.sha256(b"").hexdigest()
    for diff_id in diff_ids[1:]:
        chain = "sha256:" + hashlib.sha256(f"{chain} {diff_id}".encode()).hexdigest()
    return chain
