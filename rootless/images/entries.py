"""The entries of index.json: an image has one for each of its names, and each keeps the manifest that name was pulled
with, so one image may be had under several.

An image that was pulled by digest alone has an entry without a name for that; what has lost its last name has one too.
All of it in place and under the lock (Layout.changing), where the caller wants it kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rootless.images.image import HOST_NAME
from rootless.model import reference
from rootless.model.errors import Conflict, InvalidParameter
from rootless.store.index import MANIFEST_ANNOTATION, NAME_ANNOTATION, PULLED_ANNOTATION, REF_ANNOTATION
from rootless.store.layout import Layout


def place_pulled(entries: list[dict[str, Any]], entry: dict[str, Any], name: str) -> None:
    """The entry of what was pulled under a name, or by digest alone: other names of the image keep the manifests they
    were pulled with (in place)."""
    pulled = entry["annotations"][PULLED_ANNOTATION]
    mine = [one for one in entries if one["digest"] == entry["digest"]]

    def is_it(one: dict[str, Any]) -> bool:
        return name_of(one) == name if name else _annotation(one, PULLED_ANNOTATION) == pulled

    def is_spare(one: dict[str, Any]) -> bool:
        return not name_of(one) and _annotation(one, PULLED_ANNOTATION) in ("", pulled)

    place = next(filter(is_it, mine), None) or next(filter(is_spare, mine), None)
    if place is None:
        entries.append(place := dict(entry))
    place["annotations"] = {**(place.get("annotations") or {}), **entry["annotations"]}
    place_name(entries, place, name)


def place_name(entries: list[dict[str, Any]], like: dict[str, Any], name: str, *, beside: bool = False) -> None:
    """Give an image a further name, with the manifest of `like`, one of its entries, which takes it where it has none,
    unless it is to be `beside`; another image that had it becomes untagged (in place). Raises Conflict."""
    if not name:
        return
    if name == HOST_NAME:
        raise Conflict("the image host is this machine itself: it cannot be given other names, nor its own away")
    for entry in list(entries):
        if name_of(entry) == name:
            if entry["digest"] == like["digest"]:
                return
            drop_name(entries, entry)
    if name_of(like) or beside:
        entries.append(like := dict(like))
    like["annotations"] = {**(like.get("annotations") or {}), NAME_ANNOTATION: name, REF_ANNOTATION: name}


def drop_name(entries: list[dict[str, Any]], entry: dict[str, Any]) -> None:
    """Take its name from an entry; the last of an image stays, without one."""
    if any(other is not entry and other["digest"] == entry["digest"] for other in entries):
        entries.remove(entry)
        return
    kept = {k: v for k, v in entry["annotations"].items() if k not in (NAME_ANNOTATION, REF_ANNOTATION)}
    entry.pop("annotations")
    if kept:
        entry["annotations"] = kept


def name_of(entry: Mapping[str, Any]) -> str:
    """The canonical name of an entry of index.json, "" where it has none."""
    return _annotation(entry, NAME_ANNOTATION)


def _annotation(entry: Mapping[str, Any], key: str) -> str:
    annotations = entry.get("annotations")
    return str(annotations.get(key) or "") if isinstance(annotations, dict) else ""


@dataclass(frozen=True)
class Origin:
    """Where the manifest of a name comes from: the canonical repository and the digest it was pulled as (an index's,
    perhaps) and the digest of the manifest itself; "" each where it was not pulled."""

    name: str
    repository: str
    pulled_digest: str
    manifest: str


def origin_of(entry: Mapping[str, Any]) -> Origin:
    """Of an entry of index.json."""
    repository, _, digest = _annotation(entry, PULLED_ANNOTATION).partition("@")
    return Origin(name_of(entry), repository, digest, _annotation(entry, MANIFEST_ANNOTATION))


def entries_of(layout: Layout, digest: str) -> list[dict[str, Any]]:
    """An image's, by the digest of our manifest, of all stores: ours come first."""
    return [one for store in (layout, *layout.additional) for one in store.entries() if one["digest"] == digest]


def entry_meant(entries: Sequence[dict[str, Any]], text: str) -> dict[str, Any]:
    """Of an image's entries, at least one, that which a name or repository@digest means; the first for an id."""
    try:
        asked = reference.parse(text)
    except InvalidParameter:
        return entries[0]

    def rank(entry: dict[str, Any]) -> tuple[bool, bool]:
        origin = origin_of(entry)
        digests = (origin.pulled_digest, origin.manifest)
        exact = asked.digest in digests if asked.digest else origin.name == asked.name
        return not exact, asked.repository not in (origin.repository, origin.name.rpartition(":")[0])

    return min(entries, key=rank)
