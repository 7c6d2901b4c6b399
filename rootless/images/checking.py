"""`system check`: everything an image needs is there and is what its name says; what can be mended is mended, for the
rest there is a sentence about what to do.

Every tar is read and hashed, its index made anew and compared, and so is every tree. Layers are read without a lock;
what another engine has removed meanwhile is found out at the end and is no problem."""

from __future__ import annotations

import filecmp
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fuse_overlay import LayerError, index_layer, merge_tree
from rootless.images.entries import name_of
from rootless.images.removing import collect, marked
from rootless.images.storing import diff_ids, parse_image, plain_manifest
from rootless.model import reference
from rootless.model.errors import RootlessError
from rootless.store import files
from rootless.store.index import MANIFEST_ANNOTATION, PULLED_ANNOTATION
from rootless.store.layout import DamagedIndex, Layout, hex_of

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class Problem:
    """`what` is wrong, `images` it concerns (names or ids), `todo` for the user; empty once it is `mended`."""

    what: str
    images: tuple[str, ...] = ()
    todo: str = ""
    mended: bool = False
    digest: str = ""  # of the manifest of the image in hand

    def __str__(self) -> str:
        concerned = f" (of {', '.join(self.images)})" if self.images else ""
        return f"{self.what}{concerned}: {'mended' if self.mended else self.todo}"


class Check:
    """One run. Blocking; `say` gets a line now and then."""

    def __init__(self, layout: Layout, mend: bool, say: Callable[[str], None]) -> None:
        self._layout, self._mend, self._say = layout, mend, say
        self._problems: list[Problem] = []
        self._layers: dict[str, str] = {}  # diff id -> what is wrong with it, "" for nothing
        self._unindexed: set[str] = set()
        self._digest = ""
        self.bytes_read = self.images = 0

    def run(self) -> list[Problem]:
        """Raises RootlessError, OSError."""
        with files.temporary_directory(self._layout.temporary) as staging:
            self._index()
            entries = list(self._layout.entries())
            by_digest: dict[str, list[dict[str, Any]]] = {}
            for entry in entries:
                by_digest.setdefault(entry["digest"], []).append(entry)
            for digest, named in by_digest.items():
                self._digest = digest
                self._image(digest, named, staging)
        self._digest = ""
        self._needless()
        with self._layout.changing() as entries_now:
            there = {entry["digest"] for entry in entries_now} | {""}
        return [problem for problem in self._problems if problem.digest in there]

    def _problem(self, what: str, images: Iterable[str], todo: str, mend: Callable[[], object] | None = None) -> None:
        problem = Problem(what, tuple(images), todo, digest=self._digest)
        if mend is not None:
            problem.todo = "run it with --repair"
            if self._mend:
                mend()
                problem.mended = True
        self._problems.append(problem)

    # ------------------------------------------------------------------------------------------------ index.json
    def _index(self) -> None:
        try:
            self._layout.entries()
        except DamagedIndex as error:
            if not self._mend:
                raise
            self._problem(error.message.rpartition(";")[0], (), "", self._rebuild)

    def _rebuild(self) -> None:
        """Names that cannot be read are lost; the images are there."""
        self._layout.rebuild(
            lambda: [
                {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(manifest)}
                for digest, manifest in self._plain_manifests()
            ]
        )

    # ------------------------------------------------------------------------------------------------ one image
    def _image(self, digest: str, entries: Sequence[dict[str, Any]], staging: Path) -> None:
        names = _names(entries)
        self._say(f"checking {', '.join(names)}")
        self.images += 1
        again = _again(entries)
        for theirs in {
            a[MANIFEST_ANNOTATION] for e in entries if MANIFEST_ANNOTATION in (a := e.get("annotations") or {})
        }:
            if (wrong := self._blob(theirs)) is not None:
                self._problem(f"the registry's manifest {theirs} {wrong}", names, again, partial(self._drop, theirs))
        if (wrong := self._blob(digest)) is not None:
            self._problem(f"the manifest {digest} {wrong}", names, again, self._manifest_from_configurations(digest))
            if not self._mend or self._blob(digest) is not None:
                return
        try:
            image = parse_image(self._layout, digest)
        except (KeyError, RootlessError):
            config = _config_digest(self._layout, digest)
            self._problem(f"the configuration {config} is missing or damaged", names, again)
            self._discard_blob(config)
            return
        whole = True
        for layer in dict.fromkeys(image.layers):
            whole &= self._layer(layer, names, again, staging)
        if whole:
            self._tree(image.layers, names, staging)

    def _blob(self, digest: str) -> str | None:
        try:
            self._layout.blob(digest)
        except KeyError:
            return "is missing"
        except RootlessError:
            return "is damaged"
        return None

    def _manifest_from_configurations(self, digest: str) -> Callable[[], None] | None:
        for made, manifest in self._plain_manifests():
            if made == digest:
                return partial(files.write_file, self._layout.blob_path(digest), manifest)
        return None

    def _plain_manifests(self) -> Iterator[tuple[str, bytes]]:
        """(digest, manifest) of ours: they are made from a configuration and the sizes of its layers alone."""
        for path in self._layout.blobs.iterdir():
            try:
                config = path.read_bytes() if not path.is_symlink() and path.stat().st_size < 8 << 20 else b""
                if hashlib.sha256(config).hexdigest() != path.name:
                    continue
                layers = diff_ids(json.loads(config))
                sizes = [(layer, (self._layout.layer(layer) / "layer.tar").stat().st_size) for layer in layers]
            except (OSError, ValueError, AttributeError, RootlessError):
                continue
            manifest = plain_manifest(config, sizes)
            yield f"sha256:{hashlib.sha256(manifest).hexdigest()}", manifest

    def _drop(self, manifest: str) -> None:
        with self._layout.changing() as entries:
            for entry in entries:
                if (entry.get("annotations") or {}).get(MANIFEST_ANNOTATION) == manifest:
                    del entry["annotations"][MANIFEST_ANNOTATION]

    def _discard_blob(self, digest: str) -> None:
        """So that the next pull puts it there anew."""
        if self._mend and self._blob(digest) == "is damaged":
            self._layout.blob_path(digest).unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------------ layers
    def _layer(self, diff_id: str, names: Sequence[str], again: str, staging: Path) -> bool:
        """Whether it is whole now."""
        known = self._layers.get(diff_id)
        if known is None:
            known = self._layers[diff_id] = self._look_at_layer(diff_id, names, staging)
        if known:
            self._problem(f"the layer {diff_id} {known}", names, again)
            return False
        link = self._layout.blob_path(diff_id)
        if not link.exists():
            self._problem(f"the layer {diff_id} is not linked among the blobs", names, "", lambda: self._link(diff_id))
        return diff_id not in self._unindexed

    def _look_at_layer(self, diff_id: str, names: Sequence[str], staging: Path) -> str:
        directory = self._layout.layer(diff_id)
        tar = directory / "layer.tar"
        if not tar.is_file():
            self._discard_layer(directory)
            return "is missing"
        scratch = staging / "layer"
        scratch.mkdir()
        try:
            (scratch / "layer.tar").symlink_to(tar)
            try:
                made = index_layer(scratch)
                self.bytes_read += made.size
                wrong = "" if made.diff_id == diff_id else "is damaged"
            except LayerError as error:
                wrong = f"is damaged: {error}"
            except FileNotFoundError:
                return "is missing"
            if wrong:
                self._discard_layer(directory)
                return wrong
            if not _same(scratch / "index", directory / "index"):
                what = f"the index of the layer {diff_id} is missing or damaged"
                own = directory.parent == self._layout.layers
                todo = "tell whoever keeps the additional store"
                self._problem(what, names, todo, (lambda: _put(scratch / "index", directory)) if own else None)
                if not self._problems[-1].mended:
                    self._unindexed.add(diff_id)
        finally:
            shutil.rmtree(scratch)
        return ""

    def _discard_layer(self, directory: Path) -> None:
        """So that the next pull fetches it anew."""
        if self._mend and directory.parent == self._layout.layers and directory.exists():
            with self._layout.changing():
                directory.rename(self._layout.temporary / f"dead-{directory.name}")
            shutil.rmtree(self._layout.temporary / f"dead-{directory.name}", ignore_errors=True)

    def _link(self, diff_id: str) -> None:
        with self._layout.changing():
            self._layout.blob_path(diff_id).unlink(missing_ok=True)
            self._layout.link_layer(diff_id)

    def _tree(self, layers: Sequence[str], names: Sequence[str], staging: Path) -> None:
        tree = self._layout.tree(layers)
        scratch = staging / "tree"
        try:
            merge_tree([self._layout.layer(layer) for layer in layers], scratch)
            if not _same(scratch, tree):
                own = tree.parent == self._layout.trees
                todo = "tell whoever keeps the additional store"
                what = f"the index {tree.name} of all layers is missing or damaged"
                self._problem(what, names, todo, (lambda: scratch.rename(tree)) if own else None)
        except LayerError as error:
            self._problem(f"the layers do not fit together ({error})", names, "remove the image and get it again")
        finally:
            scratch.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------------ what is left
    def _needless(self) -> None:
        """What nothing needs; not looked for where an entry is broken, as what it needs is not known."""
        with self._layout.changing() as entries:
            try:
                blobs, layers, trees = marked(self._layout, entries)
            except (KeyError, RootlessError):
                return
            held = {hex_of(layer) for layer in self._layout.held()}
            needless = [path for path in self._layout.layers.iterdir() if path.name not in layers | held]
            needless += [path for path in self._layout.trees.iterdir() if path.name not in trees]
            needless += [path for path in self._layout.blobs.iterdir() if path.name not in blobs | layers | held]
        if needless:
            shown = ", ".join(f"{path.parent.name}/{path.name[:16]}" for path in needless[:5])
            what = f"{len(needless)} files that no image needs ({shown}{' …' if len(needless) > 5 else ''})"
            self._problem(what, (), "", lambda: _collect_all(self._layout, needless))


def _collect_all(layout: Layout, needless: Sequence[Path]) -> None:
    collect(layout)
    for path in needless:
        if path.name.startswith("."):
            path.unlink(missing_ok=True)


def _names(entries: Sequence[dict[str, Any]]) -> list[str]:
    names = [reference.parse(name).familiar for entry in entries if (name := name_of(entry))]
    return names or [entries[0]["digest"][7:19]]


def _again(entries: Sequence[dict[str, Any]]) -> str:
    """What gets an image back: its registry, if it came from one."""
    for entry in entries:
        annotations = entry.get("annotations") or {}
        if pulled := annotations.get(PULLED_ANNOTATION):
            name = name_of(entry)
            theirs = name and name.rpartition(":")[0] == str(pulled).partition("@")[0]
            return f"pull {reference.parse(name if theirs else pulled).familiar} again"
    return "remove the image and load, import or build it again"


def _config_digest(layout: Layout, manifest: str) -> str:
    try:
        return str(layout.json_blob(manifest)["config"]["digest"])
    except (KeyError, TypeError, RootlessError):
        return f"of {manifest}"


def _same(first: Path, second: Path) -> bool:
    try:
        return filecmp.cmp(first, second, shallow=False)
    except FileNotFoundError:
        return False


def _put(index: Path, directory: Path) -> None:
    """An index in the place of another, at once."""
    shutil.copyfile(index, directory / "index.new")
    (directory / "index.new").rename(directory / "index")
    files.sync_directory(directory)
