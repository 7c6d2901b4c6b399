"""Indexes of an image that are not what they should be, after a crash, a full disk or an update of this program:
noticed where the image is mounted, and made anew from the layers' tars."""

from __future__ import annotations

from collections.abc import Sequence

from fuse_overlay import LayerError, open_tree, rebuild_tree
from rootless.images.image import ImageSource
from rootless.model.errors import RootlessError


def is_sound(source: ImageSource, diff_ids: Sequence[str]) -> bool:
    """Whether the image's index can be opened and is that of its layers."""
    try:
        open_tree(source.tree, source.layers, diff_ids).close()
    except LayerError:
        return False
    return True


def mend(source: ImageSource, diff_ids: Sequence[str]) -> None:
    """Raises RootlessError where a tar itself is damaged or missing, or the store cannot be written to."""
    try:
        rebuild_tree(source.tree, source.layers, diff_ids)
    except LayerError as error:
        raise RootlessError(f"the image cannot be used: {error}") from error
    except OSError as error:
        where = error.filename or source.tree
        raise RootlessError(
            f"the image's index is damaged and cannot be made anew: {error.strerror} ({where})"
        ) from error
