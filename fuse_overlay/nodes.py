"""The nodes of a writable union that need remembering: every directory that was entered, every file of the upper.

A node id says what it is without any table: an entry of a lower layer is its layer and place there, a file of the upper
directory is its inode number there. So files of lower layers that nobody changed cost nothing, and a server that was
killed is followed by one that knows the kernel's numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fuse_overlay.lower import Lower

LAYER_SHIFT = 33  # a lower's node id: layer number, then place + 1; the root is place 0 of layer 0, which makes it 1
UPPER_ID = 1 << 63
ROOT_PLACE = 0


def lower_id(layer: int, place: int) -> int:
    return layer << LAYER_SHIFT | place + 1


def split_id(nodeid: int) -> tuple[int, int]:
    """(layer, place) of a lower's node id."""
    return nodeid >> LAYER_SHIFT, (nodeid & (1 << LAYER_SHIFT) - 1) - 1


class InUpper:
    """A name of the upper directory that nobody has looked at yet."""


IN_UPPER: Final = InUpper()


class Directory:
    """A directory of the union. `lowers` are those it is merged from, highest first, as (layer, place).

    `names`, once loaded, is complete: name -> what it is (node id of a lower's, a node, or IN_UPPER); `order` gives
    every name a cookie that stays, with None where a name went; the first `of_lowers` are the lowers' names. Where a
    name stands in it is noted once the first of them goes: most directories are only read."""

    __slots__ = (
        "_positions",
        "default_acl",
        "fd",
        "final",
        "gone",
        "id",
        "in_upper",
        "lowers",
        "name",
        "names",
        "of_lowers",
        "order",
        "parent",
    )

    def __init__(self, number: int, parent: Directory | None, name: bytes, lowers: list[tuple[Lower, int]]) -> None:
        self.id = number
        self.parent = parent
        self.name = name
        self.lowers = lowers
        self.in_upper = False
        self.gone = False
        self.fd = -1
        self.final = b""  # its last attributes, once it is gone
        self.names: dict[bytes, Child] | None = None
        self.order: list[bytes | None] = []
        self.of_lowers = 0
        self._positions: dict[bytes, int] | None = None
        self.default_acl: bool | None = None

    def set_names(self, names: dict[bytes, Child] | None, order: list[bytes | None]) -> None:
        self.names, self.order, self._positions = names, order, None

    def put(self, name: bytes, child: Child) -> None:
        if self.names is None:
            return
        if name not in self.names:
            if self._positions is not None:
                self._positions[name] = len(self.order)
            self.order.append(name)
        self.names[name] = child

    def drop(self, name: bytes) -> None:
        if self.names is None or self.names.pop(name, None) is None:
            return
        if self._positions is None:
            self._positions = {known: at for at, known in enumerate(self.order) if known is not None}
        self.order[self._positions.pop(name)] = None


class File:
    """Anything but a directory: in the upper (`inode` there), or of a lower layer and unlinked while in use
    (`inode` 0). `places` are the names it is known by; `fd` is open for data, or -1; `shown` is its st_ino. `kept`: the
    descriptor is all that is left of it. `final`: the last attributes of what left no descriptor for data. `bare`: made
    by this server, and given no xattr since. `held`: of what is no regular file and loses its name, a descriptor
    (O_PATH) that keeps its inode from being given to another, or -1."""

    __slots__ = ("bare", "fd", "final", "held", "id", "inode", "kept", "lookups", "mode", "places", "shown")

    def __init__(self, number: int, inode: int, mode: int, shown: int) -> None:
        self.id = number
        self.inode = inode
        self.mode = mode
        self.shown = shown
        self.places: list[tuple[Directory, bytes]] = []
        self.fd = self.held = -1
        self.lookups = 0
        self.kept = False
        self.final = b""
        self.bare = False


Child = int | Directory | File | InUpper
