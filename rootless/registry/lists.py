"""Lists of images for several platforms, made of images that a registry has: `manifest create` and `push`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rootless.model.errors import InvalidParameter, RootlessError
from rootless.model.reference import Reference
from rootless.registry.access import Access
from rootless.registry.client import Registry
from rootless.registry.documents import parse_json
from rootless.registry.media import DOCKER_LIST, DOCKER_MANIFEST, MANIFESTS, OCI_INDEX, digest_of
from rootless.registry.repository import Manifest, Repository
from rootless.registry.uploads import Uploads


@dataclass(frozen=True)
class Member:
    """An image of a list: its manifest as it came, and the platform that the list is to say."""

    wanted: Reference
    kind: str
    data: bytes
    platform: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    @property
    def descriptor(self) -> dict[str, Any]:
        described = {"mediaType": self.kind, "digest": self.digest, "size": len(self.data)}
        return {**described, "platform": dict(self.platform)} if self.platform else described


async def fetch(access: Access, wanted: Reference, auth: Mapping[str, str] | None) -> Manifest:
    """A manifest or list as the registry has it. Raises NotFound, RootlessError."""
    async with Registry(access, access.registry(wanted.registry), auth) as registry:
        return await Repository(registry, wanted).manifest(wanted.digest or wanted.tag)


async def member(access: Access, wanted: Reference, auth: Mapping[str, str] | None) -> Member:
    """An image, with the platform of its configuration. Raises NotFound, InvalidParameter (a list), RootlessError."""
    async with Registry(access, access.registry(wanted.registry), auth) as registry:
        repository = Repository(registry, wanted)
        found = await repository.manifest(wanted.digest or wanted.tag)
        if found.kind not in MANIFESTS:
            raise InvalidParameter(f"{wanted.familiar} is a manifest list, or no image: {found.kind}")
        parts = parse_json(found.data, "the manifest")
        config = await repository.small_blob(digest_of(parts.get("config"), "configuration"))
    said = parse_json(config, "the image's configuration")
    platform = {
        key: said[key] for key in ("architecture", "os", "os.version", "os.features", "variant") if said.get(key)
    }
    return Member(wanted, found.kind, found.data, platform)


def list_of(members: Sequence[Member]) -> tuple[bytes, str]:
    """The list and its media type: docker's where all images are of docker's kind. Raises InvalidParameter where a
    platform is missing. Pure."""
    for one in members:
        if not one.platform.get("os") or not one.platform.get("architecture"):
            raise InvalidParameter(
                f"manifest {one.wanted.familiar} must have an OS and Architecture to be pushed to a registry"
            )
    kind = DOCKER_LIST if all(one.kind == DOCKER_MANIFEST for one in members) else OCI_INDEX
    value = {"schemaVersion": 2, "mediaType": kind, "manifests": [one.descriptor for one in members]}
    return json.dumps(value, indent=3).encode(), kind


async def push(access: Access, target: Reference, members: Sequence[Member], auth: Mapping[str, str] | None) -> str:
    """Images of other repositories of the registry are mounted into this one; returns the list's digest.

    Raises InvalidParameter (another registry), Forbidden, RootlessError."""
    data, kind = list_of(members)
    for one in members:
        if one.wanted.registry != target.registry:
            raise InvalidParameter(
                "cannot use source images from a different registry than the target image: "
                f"{one.wanted.registry} != {target.registry}"
            )
    async with Registry(access, access.registry(target.registry), auth) as registry:
        repository = Repository(registry, target, actions="pull,push")
        uploads = Uploads(repository)
        for one in members:
            if one.wanted.path != target.path:
                await _mount(repository, uploads, one)
                await uploads.manifest(one.digest, one.data, one.kind)
        await uploads.manifest(target.tag, data, kind)
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def _mount(repository: Repository, uploads: Uploads, one: Member) -> None:
    parts = parse_json(one.data, "the manifest")
    layers = parts.get("layers")
    for blob in (parts.get("config"), *(layers if isinstance(layers, list) else ())):
        digest = digest_of(blob, "blob")
        if not await repository.has_blob(digest) and await uploads.mount(digest, one.wanted.path):
            raise RootlessError(f"{repository.registry.host} does not mount {digest} from {one.wanted.path}")
