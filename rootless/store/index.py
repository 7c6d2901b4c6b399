"""index.json of the data root: what is in it must be what this program writes, or nothing is believed. Pure.

An entry that is half read would be half kept at the next change, and what it needs would be swept away; so one that is
wrong makes the whole file damaged, until `rootless system check --repair` has taken out of it what can be used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeGuard

from rootless.model import reference
from rootless.model.errors import InvalidParameter

NAME_ANNOTATION = "io.containerd.image.name"
REF_ANNOTATION = "org.opencontainers.image.ref.name"
PULLED_ANNOTATION = "io.rootless.pulled"  # repository@digest an image was pulled as; the digest may be an index's
MANIFEST_ANNOTATION = "io.rootless.manifest"  # digest of the registry's manifest of this image, a blob of ours


def parse(data: bytes) -> list[dict[str, Any]]:
    """The descriptors of an image index (OCI image-spec, image-index.md). Raises ValueError saying what is wrong."""
    entries = _manifests(data)
    for entry in entries:
        if wrong := _wrong(entry):
            raise ValueError(wrong)
    return entries


def salvage(data: bytes) -> list[dict[str, Any]]:
    """The entries that can be used, without those annotations of ours that cannot; a name stands in them twice."""
    try:
        entries = _manifests(data)
    except ValueError:
        return []
    kept = []
    for entry in filter(_has_digest, entries):
        said = entry["annotations"] if isinstance(entry.get("annotations"), dict) else {}
        annotations = {key: value for key, value in said.items() if not _is_wrong(key, said)}
        name = annotations.get(NAME_ANNOTATION) or annotations.get(REF_ANNOTATION)
        if name and NAME_ANNOTATION in said:
            annotations |= {NAME_ANNOTATION: name, REF_ANNOTATION: name}
        rest = {key: value for key, value in entry.items() if key != "annotations"}
        kept.append({**rest, "annotations": annotations} if annotations else rest)
    return kept


def _manifests(data: bytes) -> list[Any]:
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    manifests = value.get("manifests") if isinstance(value, dict) else None
    if not isinstance(manifests, list):
        raise ValueError("there is no list of manifests in it")
    return manifests


def _wrong(entry: object) -> str:
    """What is wrong with an entry, "" for nothing."""
    if not _has_digest(entry):
        return f"{entry!r:.80} is no entry"
    annotations = entry.get("annotations", {})
    if not isinstance(annotations, dict):
        return f"the annotations of {entry['digest']} are {annotations!r:.80}"
    for key, value in annotations.items():
        if _is_wrong(key, annotations):
            return f"{key} of {entry['digest']} is {value!r:.80}"
    return ""


def _has_digest(entry: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(entry, dict) and reference.is_digest(entry.get("digest"))


def _is_wrong(key: str, annotations: Mapping[str, object]) -> bool:
    """Ours are canonical; others (skopeo) name what they put here in REF_ANNOTATION alone, in their way."""
    value = annotations[key]
    if key == MANIFEST_ANNOTATION:
        return not reference.is_digest(value)
    if key not in (NAME_ANNOTATION, REF_ANNOTATION, PULLED_ANNOTATION):
        return False
    if not isinstance(value, str):
        return True
    if key == REF_ANNOTATION and NAME_ANNOTATION not in annotations:
        return False
    try:
        asked = reference.parse(value)
    except InvalidParameter:
        return True
    if key == PULLED_ANNOTATION:
        return not asked.digest or value != f"{asked.repository}@{asked.digest}"
    return value != asked.name
