"""`rootless manifest inspect`."""

from __future__ import annotations

import json

from rootless.cli.command import command as declare
from rootless.cli.command import switch
from rootless.cli.invocation import Invocation
from rootless.model import reference
from rootless.model.errors import NotFound


@declare("inspect", "[MANIFEST_LIST] MANIFEST", (1, 2))
@switch("--insecure", help="The registry's certificate need not be known")
@switch("-v", "--verbose", help="With the platform and the layers of each image")
def command(invocation: Invocation, args: tuple[str, ...], insecure: bool, verbose: bool) -> None:
    """Show a manifest or a list of them"""
    from rootless.cli import manifest_lists
    from rootless.registry import lists

    kept = manifest_lists.Lists(invocation.docker_config)
    wanted = reference.parse(args[-1])
    if len(args) == 2:
        name = manifest_lists.target(args[0])
        member = next((one for one in kept.members(name) if one.wanted == wanted), None)
        if member is None:
            raise NotFound(f"No such manifest: {wanted.familiar}")
        invocation.say(manifest_lists.shown(_verbose(member) if verbose else json.loads(member.data)))
        return
    if not wanted.digest and kept.path(wanted).exists():
        members = kept.members(wanted)
        made, _ = lists.list_of(members)
        value = [_verbose(one) for one in members] if verbose else json.loads(made)
        invocation.say(manifest_lists.shown(value))
        return
    access = manifest_lists.access(invocation, wanted.registry, insecure=insecure)
    auth = manifest_lists.auth(invocation, wanted)
    found = manifest_lists.run(lambda: lists.fetch(access, wanted, auth))
    value = json.loads(found.data)
    if verbose and found.is_index:
        names = [reference.Reference(wanted.registry, wanted.path, digest=one["digest"]) for one in value["manifests"]]
        value = [
            _verbose(manifest_lists.run(lambda name=name: lists.member(access, name, auth)))  # type: ignore[misc]
            for name in names
        ]
    elif verbose:
        value = _verbose(manifest_lists.run(lambda: lists.member(access, wanted, auth)))
    invocation.say(manifest_lists.shown(value))


def _verbose(member: object) -> dict[str, object]:
    from rootless.registry.lists import Member
    from rootless.registry.media import DOCKER_MANIFEST

    assert isinstance(member, Member)
    described = "SchemaV2Manifest" if member.kind == DOCKER_MANIFEST else "OCIManifest"
    return {
        "Ref": member.wanted.familiar if member.wanted.digest else member.wanted.name,
        "Descriptor": member.descriptor,
        described: json.loads(member.data),
    }
