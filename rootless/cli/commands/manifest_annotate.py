"""`rootless manifest annotate`."""

from __future__ import annotations

from dataclasses import replace

from rootless.cli.command import command as declare
from rootless.cli.command import flag
from rootless.cli.invocation import Invocation
from rootless.model import reference
from rootless.model.errors import InvalidParameter, NotFound

_ARCHITECTURES = {  # docker's: what it takes, by operating system
    "darwin": "386 amd64 arm arm64",
    "dragonfly": "amd64",
    "freebsd": "386 amd64 arm",
    "linux": "386 amd64 arm arm64 mips64 mips64le ppc64le riscv64 s390x",
    "netbsd": "386 amd64 arm",
    "openbsd": "386 amd64 arm",
    "plan9": "386 amd64",
    "solaris": "amd64",
    "windows": "386 amd64",
}


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
    platform = {**member.platform, **{key: word for key, word in said.items() if word}}
    system, architecture = str(platform.get("os", "")), str(platform.get("architecture", ""))
    if architecture not in _ARCHITECTURES.get(system, "").split():
        raise InvalidParameter(f"manifest entry for image has unsupported os/arch combination: {system}/{architecture}")
    kept.put(name, replace(member, platform=platform))
