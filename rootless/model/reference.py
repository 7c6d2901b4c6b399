"""Names of images as docker reads them: `debian` is docker.io/library/debian:latest. Pure.

Grammar: the distribution project's reference format (OCI distribution-spec, "Pulling manifests") and docker's defaults.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rootless.model.errors import InvalidParameter

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_HOST = re.compile(r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_ID = re.compile(r"[0-9a-f]{64}")  # of an image: as a name nobody could tell which is meant
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Reference:
    """A repository and a tag, a digest, or both. `registry` is the host (and port) before the first slash."""

    registry: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """Canonical: docker.io/library/debian."""
        return f"{self.registry}/{self.path}"

    @property
    def name(self) -> str:
        """Canonical, with its tag: docker.io/library/debian:latest. What the store keys names by."""
        return f"{self.repository}:{self.tag or DEFAULT_TAG}"

    @property
    def familiar_repository(self) -> str:
        """What docker shows: debian, user/name, host/name."""
        if self.registry != DEFAULT_REGISTRY:
            return self.repository
        return self.path.removeprefix("library/")

    @property
    def familiar(self) -> str:
        text = self.familiar_repository + (f":{self.tag}" if self.tag else "")
        return f"{text}@{self.digest}" if self.digest else text


def parse(text: str) -> Reference:
    """A reference as a user writes it; the tag is `latest` where neither tag nor digest is given.

    Raises InvalidParameter with docker's words."""
    if is_id(text):
        raise InvalidParameter(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    rest, _, digest = text.partition("@")
    if digest and not is_digest(digest):
        raise InvalidParameter(f"invalid reference format: {text!r} has a bad digest")
    head, slash, tail = rest.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost" or head != head.lower()):
        registry, remainder = head, tail
    else:
        registry, remainder = DEFAULT_REGISTRY, rest
    if registry in ("index.docker.io", "registry-1.docker.io"):
        registry = DEFAULT_REGISTRY
    path, colon, tag = remainder.partition(":")
    if not _HOST.fullmatch(registry) or (colon and not _TAG.fullmatch(tag)):
        raise InvalidParameter(f"invalid reference format: {text!r}")
    if registry == DEFAULT_REGISTRY and path and "/" not in path:
        path = f"library/{path}"
    if path != path.lower():
        raise InvalidParameter(f"invalid reference format: repository name ({path}) must be lowercase")
    if not _PATH.fullmatch(path) or len(path) > 255:
        raise InvalidParameter(f"invalid reference format: {text!r}")
    return Reference(registry, path, tag or ("" if digest else DEFAULT_TAG), digest)


def is_id(text: str) -> bool:
    """Whether it is the whole id of an image, without its algorithm."""
    return _ID.fullmatch(text) is not None


def is_digest(value: object) -> bool:
    """ "sha256:" and 64 digits; other algorithms are not supported."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def has_tag(text: str) -> bool:
    """Does a reference, as a user writes it, say which image of a repository it means?"""
    return "@" in text or ":" in text.rpartition("/")[2]
