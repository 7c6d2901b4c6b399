"""`rmi`, and the collection of what no image needs any more: marked from the roots, then swept.

Roots are the entries of index.json and the layers that images in the making hold. Everything is decided under the lock,
under which images are placed as well: a pull finds its layers as it left them. Files are only renamed there; deleting
them, which takes its time, comes after."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from rootless.images.entries import name_of, origin_of
from rootless.images.image import Image
from rootless.images.storing import parse_image
from rootless.model import reference
from rootless.model.errors import Conflict, NotFound, RootlessError, is_full
from rootless.store.index import MANIFEST_ANNOTATION, PULLED_ANNOTATION
from rootless.store.layout import Layout, hex_of
from rootless.store.uses import Uses

_MIN_ID_PREFIX = 4
_ANSWERED_SECONDS = 0.05  # by then the client has what was removed: an answer takes a few milliseconds


def remove_image(
    layout: Layout, uses: Uses, image: Image, text: str, force: bool, stopped: frozenset[str]
) -> list[dict[str, str]]:
    """See Images.remove. Blocking. Raises NotFound, Conflict, RootlessError (disk)."""
    try:
        return _remove(layout, uses, image, text, force, stopped, spend=False)
    except RootlessError as error:
        if not is_full(error.__cause__):
            raise
        return _remove(layout, uses, image, text, force, stopped, spend=True)


def _remove(
    layout: Layout, uses: Uses, image: Image, text: str, force: bool, stopped: frozenset[str], *, spend: bool
) -> list[dict[str, str]]:
    """`spend`: a full disk has no room for an index.json without the image; what can be made anew of it gives some."""
    by_id = hex_of(image.id).startswith(text.removeprefix("sha256:")) and len(text) >= _MIN_ID_PREFIX
    with layout.changing() as entries:
        mine = [entry for entry in entries if entry["digest"] == image.manifest_digest]
        if by_id and _references(mine) > 1 and not force:
            raise Conflict(
                f"conflict: unable to delete {hex_of(image.id)[:12]} (must be forced) - "
                "image is referenced in multiple repositories"
            )
        digests = _digests(mine)
        going = mine if by_id else _meant(mine, text)
        if not (going or by_id):
            if any(_meant(store.entries(), text) for store in layout.additional):
                raise Conflict(f"conflict: unable to delete {text}: it is in a read-only store (additional_stores)")
            raise NotFound(f"No such image: {text}")  # another engine has taken the name since it was found
        if "@" in text and not by_id:
            for entry in filter(name_of, going):
                del entry["annotations"][PULLED_ANNOTATION]  # it is still had by its name
            going = [entry for entry in going if not name_of(entry)]
        last = len(going) == len(mine)
        users = users_of(uses, image) if last else []
        if users and by_id:
            _check_users(image, users, stopped, named=_references(mine) > 0, force=force)
        if users and not force:
            raise must_force(image, text, users[0])
        delete = last and not users
        for entry in going:
            entries.remove(entry)
        if last and not delete:
            bare = {key: value for key, value in going[0].items() if key != "annotations"}
            entries.append(bare)  # what its containers need stays, without a name
        if delete and spend:
            layout.unindex(image.layers)
        gone = digests - _digests(one for one in entries if one["digest"] == image.manifest_digest)
    done = [{"Untagged": reference.parse(name).familiar} for name in (*_names(going), *sorted(gone))]
    if delete:
        done += [{"Deleted": image.id}, *({"Deleted": layer} for layer in collect(layout))]
    return done


def users_of(uses: Uses, image: Image) -> list[str]:
    """The containers of all engines that need an image. Raises OSError."""
    return [who for used, who in uses.all() if used == image.id]


def _check_users(image: Image, users: Sequence[str], stopped: frozenset[str], *, named: bool, force: bool) -> None:
    """Whether the id of an image in use may be removed: all that goes then are names. Raises Conflict."""
    running = next((user for user in users if user not in stopped), None)
    if running is None and named and force:
        return
    how = "must be forced" if running is None and named else "cannot be forced"
    what = f"stopped container {users[0]}" if running is None else f"running container {running}"
    raise Conflict(f"conflict: unable to delete {hex_of(image.id)[:12]} ({how}) - image is being used by {what}")


def must_force(image: Image, text: str, user: str) -> Conflict:
    return Conflict(
        f"conflict: unable to remove repository reference {text!r} (must force) - container {user} is "
        f"using its referenced image {hex_of(image.id)[:12]}"
    )


def _names(entries: Iterable[dict[str, Any]]) -> list[str]:
    return [name for entry in entries if (name := name_of(entry))]


def _references(entries: Sequence[dict[str, Any]]) -> int:
    """Names, and repositories that an image has a digest of and no name."""
    names = _names(entries)
    alone = {origin_of(entry).repository for entry in entries if not name_of(entry)}
    return len(names) + len(alone - {"", *(name.rpartition(":")[0] for name in names)})


def _digests(entries: Iterable[dict[str, Any]]) -> set[str]:
    """repository@digest, all that entries were pulled as."""
    origins = map(origin_of, entries)
    return {f"{origin.repository}@{origin.pulled_digest}" for origin in origins if origin.repository}


def _meant(entries: Sequence[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """The entries that a name means, and with the last name of a repository what was pulled from it by digest alone;
    those that have a digest, from its repository."""
    asked = reference.parse(text)
    theirs = [(entry, origin_of(entry)) for entry in entries]
    if asked.digest:
        return [
            entry
            for entry, origin in theirs
            if origin.repository == asked.repository and asked.digest in (origin.pulled_digest, origin.manifest)
        ]
    named = [entry for entry, origin in theirs if origin.name == asked.name]
    if named and not any(o.name.startswith(f"{asked.repository}:") and o.name != asked.name for _, o in theirs):
        named += [entry for entry, origin in theirs if not origin.name and origin.repository == asked.repository]
    return named


def collect(layout: Layout, *, wait: bool = False) -> list[str]:
    """Remove blobs, trees and layers that nothing needs; returns the diff ids of the layers. Where an entry cannot be
    read nothing is removed: what it needs is not known. `wait` until their room is free. Raises OSError."""
    with layout.changing() as entries:  # nobody may name an image meanwhile
        try:
            blobs, layers, trees = marked(layout, entries)
        except (KeyError, RootlessError):
            return []
        held = {hex_of(layer) for layer in layout.held()}
        removed, dead = layout.sweep(blobs | layers | held, layers | held, trees)
    # freeing a large file takes a CPU for a tenth of a second, so first its removal is answered; what a process that
    # ends leaves is removed by the next
    freeing = threading.Timer(0 if wait else _ANSWERED_SECONDS, shutil.rmtree, (dead, True))
    freeing.start()
    if wait:
        freeing.join()
    return removed


def marked(layout: Layout, entries: Sequence[dict[str, Any]]) -> tuple[set[str], set[str], set[str]]:
    """The names of all blobs, layers and trees that entries need. Raises KeyError, RootlessError for a broken one."""
    blobs: set[str] = set()
    layers: set[str] = set()
    trees: set[str] = set()
    for entry in entries:
        image = parse_image(layout, entry["digest"])
        blobs |= {hex_of(image.manifest_digest), hex_of(image.id)}
        if theirs := (entry.get("annotations") or {}).get(MANIFEST_ANNOTATION):
            blobs.add(hex_of(theirs))
        layers |= {hex_of(layer) for layer in image.layers}
        trees.add(layout.tree(image.layers).name)
    return blobs, layers, trees
