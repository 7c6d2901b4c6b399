"""An image of GET /images/json as rows of `images`: one for each of its names. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rootless.cli.units import ago, human_size, local_time, short_id

NONE = "<none>"
HEADERS = {
    "ID": "IMAGE ID",
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "Containers": "CONTAINERS",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "VirtualSize": "SIZE",
}
TABLE = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
TABLE_WITH_DIGESTS = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"


def rows(image: Mapping[str, Any], truncate: bool, digests: bool, now_seconds: float) -> list[dict[str, Any]]:
    """The rows of one image. With `digests`, a name and a digest of the same repository stand in one row."""
    tags = [familiar(name).rpartition(":")[::2] for name in image.get("RepoTags") or [] if name != "<none>:<none>"]
    repo_digests = [familiar(name).partition("@")[::2] for name in image.get("RepoDigests") or []]
    repo_digests = [pair for pair in repo_digests if pair[0] != NONE]
    made: list[dict[str, Any]] = []
    for repository, tag in tags:
        matching = [digest for name, digest in repo_digests if name == repository] if digests else []
        for digest in matching or [NONE]:
            made.append(_row(image, truncate, repository, tag, digest, now_seconds))
    named = {repository for repository, _ in tags}
    for repository, digest in repo_digests:
        if not tags or (digests and repository not in named):
            made.append(_row(image, truncate, repository, NONE, digest if digests else NONE, now_seconds))
    return made or [_row(image, truncate, NONE, NONE, NONE, now_seconds)]


def tree(image: Mapping[str, Any]) -> list[str]:
    """An image as lines of `--tree`: its names, then the platforms that are here. EXTRA is U: a container needs it."""
    names = [familiar(name) for name in image.get("RepoTags") or []] or [NONE]
    size = human_size(int(image.get("Size") or 0))
    extra = "U" if int(image.get("Containers", 0)) > 0 else ""
    lines = [f"{name}\t{short_id(image['Id'])}\t{size}\t{extra}" for name in names]
    for manifest in image.get("Manifests") or []:
        platform = manifest["ImageData"]["Platform"]
        words = "/".join(platform[key] for key in ("os", "architecture", "variant") if platform.get(key))
        used = "U" if manifest["ImageData"]["Containers"] else ""
        total = human_size(manifest["Size"]["Total"])
        lines.append(f"└─ {words}\t{short_id(manifest['ID'])}\t{total}\t{used}")
    return lines


def familiar(name: str) -> str:
    """("docker.io/library/debian:12") -> "debian:12"."""
    return name.removeprefix("docker.io/library/").removeprefix("docker.io/")


def _row(
    image: Mapping[str, Any], truncate: bool, repository: str, tag: str, digest: str, now_seconds: float
) -> dict[str, Any]:
    created, size = int(image.get("Created") or 0), int(image.get("Size") or 0)
    containers, shared = int(image.get("Containers", -1)), int(image.get("SharedSize", -1))
    return {
        "ID": short_id(image["Id"]) if truncate else image["Id"],
        "Repository": repository,
        "Tag": tag,
        "Digest": digest,
        "CreatedSince": ago(created, now_seconds) if created > 0 else "N/A",
        "CreatedAt": local_time(created) if created > 0 else "N/A",
        "Size": human_size(size),
        "Containers": "N/A" if containers < 0 else str(containers),
        "SharedSize": "N/A" if shared < 0 else human_size(shared),
        "UniqueSize": "N/A" if shared < 0 else human_size(size - shared),
        "VirtualSize": human_size(size, 4),
    }
