"""How each registry is reached: endpoints with mirrors first, TLS or none, proxy, certificates, time-outs. One value,
made at the edge from settings and environment, and passed in."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rootless.model.reference import DEFAULT_REGISTRY
from rootless.registry import proxies
from rootless.registry.certificates import certificate_directories, tls_context
from rootless.registry.configuration import Policy, RegistryRules
from rootless.settings import Settings

DOCKER_HUB = "registry-1.docker.io"


@dataclass(frozen=True)
class Endpoint:
    """One place a repository can be had from. `schemes` in the order to try; `mirror` gets no credentials."""

    host: str
    schemes: tuple[str, ...]
    mirror: bool = False


@dataclass(frozen=True)
class Access:
    """`backoff_seconds` is the first wait before a request is sent again; each further one is twice as long."""

    insecure: frozenset[str] = frozenset()
    rules: Mapping[str, RegistryRules] = field(default_factory=dict)
    docker_hub_mirrors: tuple[str, ...] = ()
    policy: Policy = field(default_factory=Policy)
    environment: Mapping[str, str] = field(default_factory=dict)
    certificates: tuple[Path, ...] = ()
    backoff_seconds: float = 0.5
    attempts: int = 6
    connect_seconds: float = 15.0
    read_seconds: float = 60.0
    found: dict[str, str] = field(default_factory=dict, compare=False)  # host -> scheme it has answered with

    @classmethod
    def of(cls, settings: Settings, environment: Mapping[str, str], found: dict[str, str] | None = None) -> Access:
        return cls(
            frozenset(settings.insecure_registries),
            settings.registries,
            settings.registry_mirrors,
            settings.policy or Policy(),
            environment,
            certificate_directories(environment),
            found={} if found is None else found,
        )

    def is_insecure(self, host: str) -> bool:
        """May it be spoken to without TLS, or with a certificate nobody vouches for?"""
        rules = self.rules.get(host)
        return host in self.insecure or (rules is not None and rules.insecure) or proxies.is_loopback(host)

    def endpoints(self, registry: str) -> list[Endpoint]:
        """Of "docker.io" or "host:port": the mirrors, then the registry itself, which is always last."""
        rules = self.rules.get(registry, RegistryRules())
        mirrors = (*rules.mirrors, *(self.docker_hub_mirrors if registry == DEFAULT_REGISTRY else ()))
        return [*(self._mirror(text) for text in mirrors), self.registry(registry)]

    def registry(self, registry: str) -> Endpoint:
        """The registry itself."""
        host = DOCKER_HUB if registry == DEFAULT_REGISTRY else registry
        return Endpoint(host, ("https", "http") if self.is_insecure(host) else ("https",))

    def _mirror(self, text: str) -> Endpoint:
        scheme, separator, host = text.rstrip("/").rpartition("://")
        if separator:
            return Endpoint(host, (scheme,), mirror=True)
        return Endpoint(host, ("https", "http") if self.is_insecure(host) else ("https",), mirror=True)

    def tls(self, host: str) -> ssl.SSLContext:
        """Raises InvalidParameter."""
        return tls_context(host, self.certificates, verify=not self.is_insecure(host))

    def proxy(self, scheme: str, host: str) -> str:
        return proxies.proxy_for(scheme, host, self.environment)
