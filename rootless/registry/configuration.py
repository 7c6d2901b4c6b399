"""What config.toml says of registries: the tables `[registries."host"]` and `[policy]`, as values. Pure.

[registries."docker.io"]
mirrors = ["mirror.lab:5000"]        # asked first, in this order; "http://host" for one without TLS
[registries."registry.lab:5000"]
insecure = true                      # a certificate that nobody vouches for, or no TLS at all
[policy]
allow = ["docker.io/library/*"]      # if there, only what fits one of these
deny = ["*/malware"]
deny_digests = ["sha256:…"]
signed = { "registry.lab:5000/*" = "/etc/keys/cosign.pub" }"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rootless.model import reference


@dataclass(frozen=True)
class RegistryRules:
    """Of one registry."""

    mirrors: tuple[str, ...] = ()
    insecure: bool = False


@dataclass(frozen=True)
class Policy:
    """What may be pulled. Patterns are those of fnmatch, over canonical names without tag; `signed` maps patterns to
    the path of a public key."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    deny_digests: tuple[str, ...] = ()
    signed: Mapping[str, Path] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.allow or self.deny or self.deny_digests or self.signed)


def registries(value: object) -> dict[str, RegistryRules]:
    """The tables of `registries`. Raises ValueError saying what should be there."""
    if not isinstance(value, dict):
        raise ValueError('tables: [registries."host"]')
    made = {}
    for host, table in value.items():
        if not isinstance(table, dict) or not set(table) <= {"mirrors", "insecure"}:
            raise ValueError(f'[registries."{host}"] with `mirrors` and `insecure` and nothing else')
        insecure = table.get("insecure", False)
        if not isinstance(insecure, bool):
            raise ValueError(f'true or false: `insecure` of [registries."{host}"]')
        made[str(host)] = RegistryRules(_strings(table.get("mirrors", []), "mirrors"), insecure)
    return made


def policy(value: object) -> Policy:
    """The table `policy`. Raises ValueError saying what should be there."""
    if not isinstance(value, dict) or not set(value) <= {"allow", "deny", "deny_digests", "signed"}:
        raise ValueError("a table with `allow`, `deny`, `deny_digests`, `signed` and nothing else")
    keys = value.get("signed", {})
    if not isinstance(keys, dict) or not all(isinstance(path, str) and path.startswith("/") for path in keys.values()):
        raise ValueError("`signed` with patterns and absolute paths of public keys")
    lists = {name: _strings(value.get(name, []), name) for name in ("allow", "deny", "deny_digests")}
    if wrong := [digest for digest in lists["deny_digests"] if not reference.is_digest(digest)]:
        raise ValueError(f"`deny_digests` with digests (sha256: and 64 hexadecimal digits), not {wrong[0]!r}")
    return Policy(**lists, signed={str(pattern): Path(path) for pattern, path in keys.items()})


def _strings(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"`{name}` with a list of strings")
    return tuple(value)
