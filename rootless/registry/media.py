"""Media types and descriptors of the OCI image-spec and of docker's older names for them, and the choice of a platform.
Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rootless.model.errors import InvalidParameter, NotFound
from rootless.model.platforms import Platform, rank
from rootless.model.reference import is_digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = (OCI_INDEX, DOCKER_LIST)
MAX_MANIFEST_BYTES = 4 << 20
MAX_CONFIG_BYTES = 8 << 20


def digest_of(descriptor: object, what: str) -> str:
    """Of a descriptor. Raises InvalidParameter."""
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    if not isinstance(digest, str) or not is_digest(digest):
        raise InvalidParameter(f"the manifest has a {what} without a digest that can be used: {digest!r}")
    return digest


def size_of(descriptor: Mapping[str, Any], what: str) -> int:
    """Bytes, of a descriptor. Raises InvalidParameter."""
    size = descriptor.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise InvalidParameter(f"the manifest has a {what} without size")
    return size


def refuse_foreign(descriptor: Mapping[str, Any]) -> None:
    """Raises InvalidParameter for a layer that registries do not hand out (image-spec, "Non-Distributable Layers")."""
    kind = str(descriptor.get("mediaType"))
    if "foreign" in kind or "nondistributable" in kind:
        digest = digest_of(descriptor, "layer")
        raise InvalidParameter(f"layer {digest} is a foreign layer ({kind}), which registries do not hand out")


def choose(index: Mapping[str, Any], wanted: Platform, name: str) -> str:
    """The digest of the manifest for a platform (image-spec, image-index.md): of several that would run, the newest
    variant. Raises NotFound naming those there."""
    candidates = index.get("manifests")
    offers: list[tuple[Platform, object]] = []
    for candidate in candidates if isinstance(candidates, list) else []:
        theirs = candidate.get("platform") if isinstance(candidate, dict) else None
        if isinstance(theirs, dict):
            words = [str(theirs.get(key) or "") for key in ("os", "architecture", "variant")]
            offers.append((Platform(*words), candidate))
    running = [(suits, c) for offer, c in offers if (suits := rank(offer, wanted)) is not None]
    if not running:
        known = {str(offer) for offer, _ in offers if offer.system != "unknown"}
        there = ", ".join(sorted(known)) or "none"
        raise NotFound(f"no matching manifest for {wanted} in the manifest list of {name}; there are: {there}")
    best = max(suits for suits, _ in running)
    return digest_of(next(c for suits, c in running if suits == best), "manifest")
