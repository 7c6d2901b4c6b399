"""`lowerdir=` as layers: directories, directories of LayerWriter (layer.tar and index), and plain tar archives.

Tars that follow each other become one tree. Called by `__main__` alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fuse_overlay.errors import LayerError
from fuse_overlay.layers.store import INDEX_NAME, TAR_NAME, Tree, index_layer, merge_tree, open_tree, read_layer
from fuse_overlay.union_server import DirectoryLayer


def open_stack(paths: Sequence[str], tree: str = "") -> list[Tree | DirectoryLayer]:
    """Highest first, as `paths` are. `tree`: the index of the layers behind the directories, if that was made before.

    Raises LayerError for what is neither, OSError."""
    opened: list[Tree | DirectoryLayer] = []
    if tree:
        layers = [Path(path) for path in paths if os.path.isfile(os.path.join(path, TAR_NAME))]
        opened += [DirectoryLayer(os.path.abspath(path)) for path in paths[: len(paths) - len(layers)]]
        return [*opened, open_tree(Path(tree), layers[::-1])]
    with tempfile.TemporaryDirectory(prefix="rootless-") as scratch:
        tars: list[Path] = []
        for number, path in enumerate(paths):
            try:
                layer = _tar_layer(Path(path), Path(scratch) / f"layer{number}")
            except LayerError as error:
                raise LayerError(f"lowerdir={path}: {error}") from error
            if layer is not None:
                tars.append(layer)
                continue
            _add_tars(opened, tars, Path(scratch), lowest=False)
            if not os.path.isdir(path):
                raise LayerError(f"lowerdir={path}: no directory, no layer and no tar archive")
            opened.append(DirectoryLayer(os.path.abspath(path)))
        _add_tars(opened, tars, Path(scratch), lowest=True)
    return opened


def _tar_layer(path: Path, scratch: Path) -> Path | None:
    """A directory with layer.tar and index, if `path` is or can be seen as one."""
    if path.is_file():
        scratch.mkdir()
        os.symlink(path.resolve(), scratch / TAR_NAME)
        index_layer(scratch)
        return scratch
    if not (path / TAR_NAME).is_file() or not (path / INDEX_NAME).is_file():
        return None
    try:
        read_layer(path)
        return path
    except LayerError:  # damaged, or of another version
        scratch.mkdir()
        os.symlink((path / TAR_NAME).resolve(), scratch / TAR_NAME)
        index_layer(scratch)
        return scratch


def _add_tars(opened: list[Tree | DirectoryLayer], tars: list[Path], scratch: Path, *, lowest: bool) -> None:
    if not tars:
        return
    place = scratch / f"tree{len(opened)}"
    merge_tree(tars[::-1], place, lowest=lowest)
    opened.append(open_tree(place, tars[::-1]))
    tars.clear()
