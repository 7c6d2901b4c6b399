"""The data root: an OCI image layout (image-spec, image-layout.md) beside the layers and trees.

    images/oci-layout, index.json, blobs/sha256/<hex>      manifests and configs; names are annotations of index.json
    layers/<diff id hex>/{layer.tar,index}
    trees/<chain id hex>
    tmp/                                                    what is being made

Blobs, layers and trees are named by their content and never change. Only index.json does, under a lock: it is the root
from which everything in use is found."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rootless.model.errors import RootlessError
from rootless.store import files

NAME_ANNOTATION = "io.containerd.image.name"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


class Layout:
    """The directories of one data root, made where missing. Blocking; called from worker threads."""

    def __init__(self, data_root: Path) -> None:
        self._root = data_root
        self.images = data_root / "images"
        self.layers = data_root / "layers"
        self.trees = data_root / "trees"
        self.temporary = data_root / "tmp"
        self._blobs = self.images / "blobs" / "sha256"
        self._index = self.images / "index.json"

    def prepare(self) -> None:
        """Make what is missing and remove what dead processes left. Raises RootlessError naming the directory."""
        try:
            for directory in (self._blobs, self.layers, self.trees, self.temporary):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (self.images / "oci-layout").exists():
                files.write_file(self.images / "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
            files.remove_leftovers(self.temporary)
        except OSError as error:
            raise RootlessError(
                f"cannot use the data root {self._root}: {error.strerror} ({error.filename})"
            ) from error

    # ------------------------------------------------------------------------------------------------ blobs
    def put_blob(self, data: bytes) -> str:
        """Store a manifest or config; returns its digest."""
        digest = hashlib.sha256(data).hexdigest()
        path = self._blobs / digest
        if not path.exists():
            files.write_file(path, data)
        return f"sha256:{digest}"

    def blob(self, digest: str) -> bytes:
        """Raises KeyError where it is missing, RootlessError where it is not what its name says."""
        try:
            data = (self._blobs / hex_of(digest)).read_bytes()
        except FileNotFoundError:
            raise KeyError(digest) from None
        if hashlib.sha256(data).hexdigest() != hex_of(digest):
            raise RootlessError(f"blob {digest} is damaged on disk; remove the image and get it again")
        return data

    def json_blob(self, digest: str) -> dict[str, Any]:
        value = json.loads(self.blob(digest))
        if not isinstance(value, dict):
            raise RootlessError(f"blob {digest} is not a JSON object")
        return value

    # ------------------------------------------------------------------------------------------------ names
    def entries(self) -> list[dict[str, Any]]:
        """The descriptors of index.json. An entry without the name annotation is an untagged image."""
        try:
            value = json.loads(self._index.read_bytes())
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise RootlessError(f"{self._index} is damaged: {error}") from error
        manifests = value.get("manifests", []) if isinstance(value, dict) else []
        return [entry for entry in manifests if isinstance(entry, dict) and isinstance(entry.get("digest"), str)]

    @contextmanager
    def changing(self) -> Iterator[list[dict[str, Any]]]:
        """The entries, to change in place; written when the block ends well."""
        with files.locked(self.images / "lock"):
            entries = self.entries()
            before = json.dumps(entries)
            yield entries
            if json.dumps(entries) != before:
                made = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
                files.write_file(self._index, json.dumps(made, indent=1).encode())

    # ------------------------------------------------------------------------------------------------ layers
    def layer(self, diff_id: str) -> Path:
        return self.layers / hex_of(diff_id)

    def place_layer(self, made: Path, diff_id: str) -> None:
        """Move a finished layer directory to its place. Someone may have been faster: then theirs stays."""
        target = self.layer(diff_id)
        if target.exists():
            return
        (made / ".lock").unlink(missing_ok=True)
        try:
            os.rename(made, target)
        except OSError:
            if not target.exists():
                raise
        files.sync_directory(self.layers)

    def tree(self, diff_ids: Sequence[str]) -> Path:
        return self.trees / hex_of(chain_id(diff_ids))

    def blobs_on_disk(self) -> list[Path]:
        return [path for path in self._blobs.iterdir() if not path.name.startswith(".")]


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
