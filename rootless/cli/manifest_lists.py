"""`manifest`: lists of images as docker's client keeps them, a directory each below `manifests/` of its configuration,
a file for every image. It talks to registries itself, as docker's does: no engine is needed."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from rootless import settings
from rootless.cli.invocation import Invocation
from rootless.client.credentials import Auth, Credentials
from rootless.model import reference
from rootless.model.errors import InvalidParameter, NotFound, RootlessError
from rootless.model.reference import Reference
from rootless.registry.access import Access
from rootless.registry.lists import Member
from rootless.registry.media import DOCKER_MANIFEST

T = TypeVar("T")


class Lists:
    """Those of one configuration directory. Raises NotFound, RootlessError (the disk)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "manifests"

    def path(self, name: Reference) -> Path:
        return self._directory / _file_name(name)

    def members(self, name: Reference) -> list[Member]:
        """Raises NotFound."""
        try:
            files = sorted(self.path(name).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"No such manifest: {name.familiar}") from None
        return [_member(path) for path in files if not path.name.startswith(".")]

    def put(self, name: Reference, member: Member) -> None:
        directory = self.path(name)
        described = "SchemaV2Manifest" if member.kind == DOCKER_MANIFEST else "OCIManifest"
        value = {
            "Ref": member.wanted.familiar if member.wanted.digest else member.wanted.name,
            "Descriptor": member.descriptor,
            "Raw": base64.b64encode(member.data).decode(),
            described: json.loads(member.data),
        }
        temporary = directory / f".{_file_name(member.wanted)}"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(value))
            os.rename(temporary, directory / _file_name(member.wanted))
        except OSError as error:
            raise RootlessError(f"cannot write below {directory}: {error.strerror}") from error

    def remove(self, name: Reference) -> None:
        """Raises NotFound."""
        try:
            shutil.rmtree(self.path(name))
        except FileNotFoundError:
            raise NotFound(f"No such manifest: {name.familiar}") from None
        except OSError as error:
            raise RootlessError(f"cannot remove {self.path(name)}: {error.strerror}") from error


def _file_name(name: Reference) -> str:
    text = f"{name.repository}@{name.digest}" if name.digest else name.name
    return text.replace(":", "-").replace("/", "_")


def _member(path: Path) -> Member:
    try:
        value: Any = json.loads(path.read_bytes())
        described = value["Descriptor"]
        return Member(
            reference.parse(value["Ref"]),
            str(described["mediaType"]),
            base64.b64decode(value["Raw"]),
            dict(described.get("platform") or {}),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RootlessError(f"{path} is damaged: {error!r}; remove the list and make it again") from None


def target(text: str) -> Reference:
    """The name of a list. Raises InvalidParameter."""
    name = reference.parse(text)
    if name.digest:
        raise InvalidParameter(f"{text}: a manifest list has a tag, not a digest")
    return name


def access(invocation: Invocation, *hosts: str, insecure: bool) -> Access:
    """How registries are reached; `insecure` lets those hosts do without a certificate that is known."""
    made = Access.of(settings.load(invocation.environment), invocation.environment)
    return replace(made, insecure=made.insecure | set(hosts)) if insecure else made


def auth(invocation: Invocation, name: Reference) -> Auth | None:
    return Credentials(invocation.docker_config, invocation.environment.get("PATH", "")).get(name.registry)


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Talk to a registry. Raises what the work does, not in a group."""
    import trio

    return trio.run(work)


def shown(value: object) -> str:
    return json.dumps(value, indent="\t")
