"""What a directory of an overlay shows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

WHITED_OUT = -1  # in the stead of a place: the layers below have nothing to say of this name


def merged(
    upper: Iterable[tuple[bytes, bool]], lowers: Iterable[tuple[int, Iterable[tuple[bytes, int]]]]
) -> Mapping[bytes, tuple[int, int] | None]:
    """Name -> where it comes from: (layer, place), or None for the upper. In the order of the layers.

    `upper`: (name, is it a whiteout); `lowers`, highest first: (layer, its names with their places or WHITED_OUT)."""
    shown: dict[bytes, tuple[int, int] | None] = {}
    hidden: set[bytes] = set()
    for name, is_whiteout in upper:
        if is_whiteout:
            hidden.add(name)
        else:
            shown[name] = None
    for layer, entries in lowers:
        for name, place in entries:
            if name in shown or name in hidden:
                continue
            if place == WHITED_OUT:
                hidden.add(name)
            else:
                shown[name] = layer, place
    return shown
