"""An image as the rest of the engine sees it, and docker's JSON of it. Pure but for what it is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rootless.launcher.messages import MountImage
from rootless.model import reference
from rootless.model.platforms import Platform
from rootless.runtime.spec import UnionSpec

HOST_NAME = "docker.io/library/host:latest"


@dataclass(frozen=True)
class Image:
    """`id` is the digest of the configuration blob. `config` the whole configuration (OCI image-spec config.md).
    `names` are canonical names with a tag. `manifest_digest` is that of our manifest, over unpacked layers of
    `layer_bytes` each; `pulled_manifests` are the registries' own, blobs of the store (see store.layout).
    `read_only`: it is in an additional store and not in ours."""

    id: str
    config: dict[str, Any]
    manifest_digest: str
    layers: tuple[str, ...]
    layer_bytes: tuple[int, ...] = ()
    manifest_bytes: int = 0
    names: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()  # repository@digest it was pulled as, canonical
    pulled_manifests: tuple[str, ...] = ()
    read_only: bool = False

    @property
    def size(self) -> int:
        """Bytes of the unpacked layers."""
        return sum(self.layer_bytes)

    @property
    def platform(self) -> Platform:
        return Platform(*(str(self.config.get(key) or "") for key in ("os", "architecture", "variant")))

    @property
    def process_config(self) -> dict[str, Any]:
        """Cmd, Env, User …; empty where the image says nothing."""
        value = self.config.get("config")
        return value if isinstance(value, dict) else {}

    @property
    def repo_tags(self) -> list[str]:
        return [reference.parse(name).familiar for name in self.names]

    @property
    def repo_digests(self) -> list[str]:
        """As docker shows them: debian@sha256:…"""
        return [reference.parse(digest).familiar for digest in self.digests]

    @property
    def created(self) -> str:
        return str(self.config.get("created") or "0001-01-01T00:00:00Z")

    def inspect(self) -> dict[str, Any]:
        """The shape of GET /images/{name}/json."""
        config = self.process_config
        return {
            "Id": self.id,
            "RepoTags": self.repo_tags,
            "RepoDigests": self.repo_digests,
            "Parent": "",
            "Comment": (self.config.get("history") or [{}])[-1].get("comment", ""),
            "Created": self.created,
            "DockerVersion": "",
            "Author": self.config.get("author", ""),
            "Config": {
                "Hostname": "",
                "Domainname": "",
                "User": config.get("User", ""),
                "AttachStdin": False,
                "AttachStdout": False,
                "AttachStderr": False,
                "ExposedPorts": config.get("ExposedPorts"),
                "Tty": False,
                "OpenStdin": False,
                "StdinOnce": False,
                "Env": config.get("Env") or [],
                "Cmd": config.get("Cmd"),
                "Image": "",
                "Volumes": config.get("Volumes"),
                "WorkingDir": config.get("WorkingDir", ""),
                "Entrypoint": config.get("Entrypoint"),
                "OnBuild": config.get("OnBuild"),
                "Labels": config.get("Labels") or {},
                **{name: config[name] for name in ("StopSignal", "Healthcheck", "Shell") if name in config},
            },
            "Architecture": self.config.get("architecture", ""),
            "Variant": self.config.get("variant", ""),
            "Os": self.config.get("os", "linux"),
            "Size": self.size,
            "GraphDriver": {"Name": "fuse+overlay", "Data": {}},
            "RootFS": {"Type": "layers", "Layers": list(self.layers)},
            "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
        }

    def history(self) -> list[dict[str, Any]]:
        """The shape of GET /images/{name}/history, newest first."""
        sizes = list(self.layer_bytes)
        rows: list[dict[str, Any]] = []
        for row in self.config.get("history") or []:
            rows.append(
                {
                    "Id": "<missing>",
                    "Created": seconds(row.get("created") or ""),
                    "CreatedBy": row.get("created_by", ""),
                    "Tags": None,
                    "Size": 0 if row.get("empty_layer") or not sizes else sizes.pop(0),
                    "Comment": row.get("comment", ""),
                }
            )
        rows.reverse()
        if rows:
            rows[0] |= {"Id": self.id, "Tags": self.repo_tags or None}
        return rows


def seconds(created: str) -> int:
    """RFC 3339 -> Unix time, 0 for what is none."""
    try:
        return int(datetime.fromisoformat(created.replace("Z", "+00:00")[:19] + "+00:00").timestamp())
    except ValueError:
        return 0


@dataclass(frozen=True)
class ImageSource:
    """Where the launcher finds the tree of an image; `mount` asks it for that."""

    key: str
    kind: str
    tree: Path
    layers: tuple[Path, ...] = ()
    exclude: tuple[str, ...] = field(default=())

    @property
    def mount(self) -> MountImage:
        return MountImage(self.key, self.kind, str(self.tree), tuple(str(layer) for layer in self.layers), self.exclude)

    @property
    def union(self) -> UnionSpec:
        """The same, served below a container's own layer (driver `fuse`)."""
        return UnionSpec(self.kind, str(self.tree), tuple(str(layer) for layer in self.layers), self.exclude)
