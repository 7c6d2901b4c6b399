"""What a directory of an overlay shows. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

WHITED_OUT = -1  # in the stead of a place: the layers below have nothing to say of this name
Upper = TypeVar("Upper")


def merged(
    upper: Iterable[tuple[bytes, bool]], lowers: Iterable[Iterable[tuple[bytes, int]]], of_upper: Upper
) -> dict[bytes, int | Upper]:
    """Name -> what its highest layer has for it, in the order of the layers; `of_upper` for the upper's.

    `upper`: (name, is it a whiteout); `lowers`, highest first: names with a number or WHITED_OUT. These are read to
    their end, one after the other."""
    shown: dict[bytes, int | Upper] = {}
    hidden: set[bytes] = set()
    for name, is_whiteout in upper:
        if is_whiteout:
            hidden.add(name)
        else:
            shown[name] = of_upper
    for entries in lowers:
        for name, number in entries:
            if name in shown or name in hidden:
                continue
            if number == WHITED_OUT:
                hidden.add(name)
            else:
                shown[name] = number
    return shown
