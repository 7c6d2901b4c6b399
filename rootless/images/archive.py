"""The formats of image archives: which files a `docker save` tar or an OCI layout has, and what they say. Pure.

    docker   manifest.json: [{"Config": path, "RepoTags": […], "Layers": [path…]}]; layers are plain or packed tars
    OCI      oci-layout, index.json, blobs/sha256/<hex> (image-spec, image-layout.md)

What we write is both at once, as docker has done since version 25: every reader finds the format it knows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rootless.images.storing import diff_ids, parse_json
from rootless.model import reference
from rootless.model.errors import InvalidParameter
from rootless.model.platforms import Platform
from rootless.registry.media import INDEXES, choose, digest_of, refuse_foreign
from rootless.store.index import NAME_ANNOTATION, REF_ANNOTATION
from rootless.store.layout import hex_of

MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.json"
LAYOUT_NAME = "oci-layout"
FORMATS = ("docker", "oci")


@dataclass(frozen=True)
class Described:
    """An image of an archive: its configuration, and per layer (path in the archive, diff id, digest of the file at the
    path or "")."""

    config: bytes
    layers: tuple[tuple[str, str, str], ...]
    names: tuple[str, ...] = ()


def blob_name(digest: str) -> str:
    return f"blobs/sha256/{hex_of(digest)}"


def describe(read: Callable[[str], bytes | None], platform: Platform) -> list[Described]:
    """The images of an archive. `read` gives a small file by its name, None where there is none.

    Raises InvalidParameter, NotFound (platform)."""
    if (manifest := read(MANIFEST_NAME)) is not None:
        listed = parse_json(b'{"images":' + manifest + b"}", MANIFEST_NAME)
        return [_docker(read, entry) for entry in _objects(listed, "images")]
    if (index := read(INDEX_NAME)) is not None:
        found = _merged(
            [_oci(read, entry, "", platform, 0) for entry in _objects(parse_json(index, INDEX_NAME), "manifests")]
        )
        if found:
            return found
    raise InvalidParameter(
        f"the archive has neither {MANIFEST_NAME} (docker save) nor {INDEX_NAME} (OCI): use `import` for the tar of a "
        "root file system"
    )


def _needed(read: Callable[[str], bytes | None], name: str) -> bytes:
    data = read(name)
    if data is None:
        raise InvalidParameter(f"the archive has no file {name!r}")
    return data


def _docker(read: Callable[[str], bytes | None], entry: Mapping[str, Any]) -> Described:
    config = _needed(read, str(entry.get("Config")))
    wanted = diff_ids(parse_json(config, "the image's configuration"))
    paths, tags = entry.get("Layers") or [], entry.get("RepoTags") or []
    if not isinstance(paths, list) or not isinstance(tags, list) or len(paths) != len(wanted):
        raise InvalidParameter(f"{MANIFEST_NAME} and the configuration do not list the same layers")
    layers = tuple((str(path), diff_id, "") for path, diff_id in zip(paths, wanted, strict=True))
    return Described(config, layers, tuple(reference.parse(str(tag)).name for tag in tags))


def _oci(
    read: Callable[[str], bytes | None], entry: Mapping[str, Any], name: str, platform: Platform, depth: int
) -> Described:
    if isinstance(annotations := entry.get("annotations"), dict):
        name = str(annotations.get(NAME_ANNOTATION) or annotations.get(REF_ANNOTATION) or name)
    digest = digest_of(entry, "manifest")
    manifest = parse_json(_needed(read, blob_name(digest)), "a manifest")
    if manifest.get("mediaType") in INDEXES or "manifests" in manifest:
        if depth > 2:
            raise InvalidParameter("the archive is damaged: indexes within indexes")
        return _oci(read, {"digest": choose(manifest, platform, name or "the archive")}, name, platform, depth + 1)
    config = _needed(read, blob_name(digest_of(manifest.get("config"), "configuration")))
    wanted, layers = diff_ids(parse_json(config, "the image's configuration")), _objects(manifest, "layers")
    if len(layers) != len(wanted):
        raise InvalidParameter("the manifest and the configuration do not list the same layers")
    found = []
    for layer, diff_id in zip(layers, wanted, strict=True):
        refuse_foreign(layer)
        packed = digest_of(layer, "layer")
        found.append((blob_name(packed), diff_id, packed))
    return Described(config, tuple(found), (reference.parse(name).name,) if name else ())


def _merged(images: Sequence[Described]) -> list[Described]:
    """An image with several names has an entry for each."""
    made: dict[bytes, Described] = {}
    for image in images:
        before = made.get(image.config)
        names = (*before.names, *image.names) if before is not None else image.names
        made[image.config] = Described(image.config, image.layers, tuple(dict.fromkeys(names)))
    return list(made.values())


def _objects(value: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = value.get(name)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise InvalidParameter(f"the archive is damaged: {name} is not a list of objects")
    return found


# ---------------------------------------------------------------------------------------------------- written
def index_json(images: Sequence[tuple[str, int, Sequence[str]]]) -> bytes:
    """Of (manifest digest, its bytes, canonical names) the index, one entry a name."""
    entries: list[dict[str, Any]] = []
    for digest, size, names in images:
        bare = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size}
        entries += [{**bare, "annotations": {NAME_ANNOTATION: name, REF_ANNOTATION: name}} for name in names] or [bare]
    return json.dumps(
        {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
    ).encode()


def manifest_json(images: Sequence[tuple[str, Sequence[str], Sequence[str]]]) -> bytes:
    """Of (configuration's digest, diff ids, canonical names)."""
    return json.dumps(
        [
            {
                "Config": blob_name(config),
                "RepoTags": list(names) or None,  # canonical: podman takes docker's short forms for names of its own
                "Layers": [blob_name(layer) for layer in layers],
            }
            for config, layers, names in images
        ]
    ).encode()
