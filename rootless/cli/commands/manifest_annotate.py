"""`rootless manifest annotate`."""

from __future__ import annotations

from dataclasses import replace

from rootless.cli.command import command as declare
from rootless.cli.command import flag
from rootless.cli.invocation import Invocation
from rootless.model import reference
from rootless.model.errors import NotFound


@declare("annotate", "MANIFEST_LIST MANIFEST", (2, 2))
@flag("--arch", default="", help="Architecture")
@flag("--os", default="", help="Operating system")
@flag("--os-features", multiple=True, help="Features of the operating system")
@flag("--os-version", default="", help="Version of the operating system")
@flag("--variant", default="", help="Variant of the architecture")
def command(
    invocation: Invocation,
    args: tuple[str, ...],
    arch: str,
    os: str,
    os_features: tuple[str, ...],
    os_version: str,
    variant: str,
) -> None:
    """Say more about an image of a local list"""
    from rootless.cli import manifest_lists

    name, wanted = manifest_lists.target(args[0]), reference.parse(args[1])
    kept = manifest_lists.Lists(invocation.docker_config)
    member = next((one for one in kept.members(name) if one.wanted == wanted), None)
    if member is None:
        raise NotFound(f"manifest for image {wanted.familiar} does not exist in {name.familiar}")
    said = {
        "architecture": arch,
        "os": os,
        "os.features": list(os_features),
        "os.version": os_version,
        "variant": variant,
    }
    kept.put(name, replace(member, platform={**member.platform, **{key: word for key, word in said.items() if word}}))
