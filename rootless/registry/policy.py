"""What may be pulled: by registry and name, by digest, by signature. Off unless config.toml has a table `[policy]`."""

from __future__ import annotations

from fnmatch import fnmatchcase

from rootless.model.errors import Forbidden
from rootless.model.reference import Reference
from rootless.registry.configuration import Policy
from rootless.registry.repository import Repository


def check_name(policy: Policy, wanted: Reference) -> None:
    """Raises Forbidden."""
    name = wanted.repository
    for pattern in policy.deny:
        if _fits(name, pattern):
            raise Forbidden(f"{wanted.familiar} is refused by policy: {name} fits {pattern!r} of `deny`")
    if policy.allow and not any(_fits(name, pattern) for pattern in policy.allow):
        raise Forbidden(f"{wanted.familiar} is refused by policy: {name} fits nothing of `allow`")


def check_digests(policy: Policy, wanted: Reference, *digests: str) -> None:
    """Of indexes, manifests, layers. Raises Forbidden."""
    for digest in digests:
        if digest in policy.deny_digests:
            raise Forbidden(f"{wanted.familiar} is refused by policy: {digest} is in `deny_digests`")


async def check_signature(policy: Policy, repository: Repository, digest: str) -> None:
    """Raises Forbidden where a signature is wanted and there is none that is good."""
    for pattern, key in policy.signed.items():
        if _fits(repository.wanted.repository, pattern):
            from rootless.registry.signatures import verify

            await verify(repository, digest, key)


def _fits(name: str, pattern: str) -> bool:
    """A host is the same in capitals; a path has none."""
    return fnmatchcase(name.lower(), pattern.lower())
