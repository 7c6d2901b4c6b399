"""How much room images take, each layer counted once. Pure."""

from __future__ import annotations

import collections
from collections.abc import Iterable

from rootless.images.image import Image


def layer_bytes(images: Iterable[Image]) -> dict[str, int]:
    """diff id -> bytes, of all layers that images have."""
    return {layer: size for image in images for layer, size in zip(image.layers, image.layer_bytes, strict=False)}


def shared_bytes(images: Iterable[Image]) -> dict[str, int]:
    """image id -> bytes of those of its layers that another image has as well."""
    every = list(images)
    users = collections.Counter(layer for image in every for layer in set(image.layers))
    return {image.id: sum(size for layer, size in layer_bytes([image]).items() if users[layer] > 1) for image in every}
