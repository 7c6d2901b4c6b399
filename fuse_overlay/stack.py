"""`lowerdir=` as layers: directories, directories of LayerWriter (layer.tar and index), and plain tar archives.

Tars that follow each other become one tree. Called by `__main__` alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fuse_overlay.errors import LayerError
from fuse_overlay.layers.store import INDEX_NAME, TAR_NAME, Tree, index_layer, merge_tree, open_tree, read_layer
from fuse_overlay.union_server import DirectoryLayer


def open_stack(paths: Sequence[str], tree: str = "") -> list[Tree | DirectoryLayer]:
    """Highest first, as `paths` are. `tree`: the index of the layers behind the directories, if that was made before.

    Raises LayerError for what is neither, OSError."""
    if tree:
        layers = [Path(path) for path in paths if os.path.isfile(os.path.join(path, TAR_NAME))]
        above = [DirectoryLayer(os.path.abspath(path)) for path in paths[: len(paths) - len(layers)]]
        return [*above, open_tree(Path(tree), layers[::-1])]
    if not any(map(_has_tar, paths)):
        return [_directory(path) for path in paths]
    import tempfile  # slow to import

    opened: list[Tree | DirectoryLayer] = []
    with tempfile.TemporaryDirectory(prefix="rootless-") as scratch:
        tars: list[Path] = []
        for number, path in enumerate(paths):
            if _has_tar(path):
                try:
                    tars.append(_tar_layer(Path(path), Path(scratch) / f"layer{number}"))
                except LayerError as error:
                    raise LayerError(f"lowerdir={path}: {error}") from error
            else:
                _add_tars(opened, tars, Path(scratch), lowest=False)
                opened.append(_directory(path))
        _add_tars(opened, tars, Path(scratch), lowest=True)
    return opened


def _has_tar(path: str) -> bool:
    return os.path.isfile(path) or all(os.path.isfile(f"{path}/{name}") for name in (TAR_NAME, INDEX_NAME))


def _directory(path: str) -> DirectoryLayer:
    if not os.path.isdir(path):
        raise LayerError(f"lowerdir={path}: no directory, no layer and no tar archive")
    return DirectoryLayer(os.path.abspath(path))


def _tar_layer(path: Path, scratch: Path) -> Path:
    """A directory with layer.tar and index: `path`, or one made for it. Raises LayerError, OSError."""
    tar = path
    if not path.is_file():
        try:
            read_layer(path)
            return path
        except LayerError:  # damaged, or of another version
            tar = path / TAR_NAME
    scratch.mkdir()
    os.symlink(tar.resolve(), scratch / TAR_NAME)
    index_layer(scratch)
    return scratch


def _add_tars(opened: list[Tree | DirectoryLayer], tars: list[Path], scratch: Path, *, lowest: bool) -> None:
    if not tars:
        return
    place = scratch / f"tree{len(opened)}"
    merge_tree(tars[::-1], place, lowest=lowest)
    opened.append(open_tree(place, tars[::-1]))
    tars.clear()
