"""What users and docker's files call a registry, and what it is. Pure.

docker keeps Docker Hub's credentials under the address of an API that is no more: https://index.docker.io/v1/."""

from __future__ import annotations

from rootless.model.reference import DEFAULT_REGISTRY

DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_HUB_NAMES = ("", DEFAULT_REGISTRY, "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com")


def registry_of(server: str) -> str:
    """The registry (docker.io, host:port) of what a user wrote or a file has as a key."""
    host = server.strip().removeprefix("https://").removeprefix("http://").partition("/")[0]
    return DEFAULT_REGISTRY if host in _HUB_NAMES else host


def key_of(registry: str) -> str:
    """What docker's files have its credentials under."""
    return DOCKER_HUB_KEY if registry == DEFAULT_REGISTRY else registry
