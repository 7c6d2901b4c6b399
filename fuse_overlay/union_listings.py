"""Which names a directory of a writable union has, all of them, merged once and kept: how many, and for how long.

`nodes.Directory` holds them and says what a change does to them. Called by `union_tree` and the request handlers."""

from __future__ import annotations

import collections
from collections.abc import Iterator

from fuse_overlay.lower import Lower, TreeLower
from fuse_overlay.nodes import IN_UPPER, Child, Directory, lower_id
from fuse_overlay.union.merge import WHITED_OUT, merged
from fuse_overlay.upper import Upper

MOST_NAMES = 200_000  # kept of all directories together
MOST_PLACES = 16 << 20  # bytes


class Listings:
    def __init__(self, upper: Upper) -> None:
        self._upper = upper
        self._kept: collections.OrderedDict[Directory, int] = collections.OrderedDict()  # the last used last
        self._names = 0  # of all that are kept
        self._places: dict[Directory, bytes] = {}  # of the forgotten: which names of the upper had places, in order
        self._size = 0  # of all these

    def load(self, directory: Directory) -> None:
        """Make `names` complete. Cookies count the lower's names first, whether they show or not, so that those of a
        directory stay the same when it gets an upper; see `unchanged`. A name keeps its cookie when the directory is
        loaded anew, for whoever is in the middle of reading it. Raises OSError."""
        below: dict[bytes, None] = {}

        def entries(lower: Lower, place: int) -> Iterator[tuple[bytes, int]]:
            for name, found in lower.entries(place):
                below[name] = None
                yield name, WHITED_OUT if found == WHITED_OUT else lower_id(lower.number, found)

        upper = self._upper.scan(directory) if directory.in_upper and not directory.gone else ()
        of_upper: Child = IN_UPPER
        names = merged(upper, (entries(*lower) for lower in directory.lowers), of_upper)
        order = directory.order
        if directory.names is None:
            places = self._places_of(directory)
            later = set(places)  # a lower's name may have come back behind the others
            order = [*(None if name in later else name for name in below), *places]
            directory.of_lowers = len(below)
        order = [name if name in names else None for name in order]
        if len(names) > len(order) - order.count(None):
            placed = set(order)
            order += [name for name in names if name not in placed]
        directory.set_names(names, order)
        self.keep(directory)

    def keep(self, directory: Directory) -> None:
        """Forget the listings that were not used for longest where there are too many names in memory."""
        self._names += len(directory.order) - self._kept.pop(directory, 0)
        self._kept[directory] = len(directory.order)
        while self._names > MOST_NAMES and len(self._kept) > 1:
            oldest, count = self._kept.popitem(last=False)
            self._names -= count
            self._keep_places(oldest)
            oldest.set_names(None, [])

    def drop(self, directory: Directory) -> None:
        """It is gone."""
        self._names -= self._kept.pop(directory, 0)
        self._size -= len(self._places.pop(directory, b""))

    def _keep_places(self, directory: Directory) -> None:
        """The lowers' names are found in the same order again, those of the upper are not."""
        if len(directory.order) > directory.of_lowers:
            places = b"/".join(name or b"" for name in directory.order[directory.of_lowers :])
            self._places[directory] = places
            self._size += len(places)
            while self._size > MOST_PLACES:
                self._size -= len(self._places.pop(next(iter(self._places))))

    def _places_of(self, directory: Directory) -> list[bytes]:
        places = self._places.pop(directory, None)
        self._size -= len(places or b"")
        return [] if places is None else places.split(b"/")


def unchanged(directory: Directory) -> tuple[TreeLower, int] | None:
    """The one layer that is all there is of a directory, where its entries can be had without `load`."""
    if directory.names is None and not directory.in_upper and len(directory.lowers) == 1:
        lower, place = directory.lowers[0]
        if isinstance(lower, TreeLower) and not lower.has_whiteouts:
            return lower, place
    return None
