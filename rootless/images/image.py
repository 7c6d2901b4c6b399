"""An image as the rest of the engine sees it, and docker's JSON of it. Pure but for what it is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rootless.model import reference

HOST_NAME = "docker.io/library/host:latest"


@dataclass(frozen=True)
class Image:
    """`id` is the digest of the configuration blob. `config` the whole configuration (OCI image-spec config.md).
    `names` are canonical names with a tag; `size` the bytes of the uncompressed layers."""

    id: str
    config: dict[str, Any]
    manifest_digest: str
    layers: tuple[str, ...]
    names: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()  # repository@digest it was pulled by
    size: int = 0

    @property
    def process_config(self) -> dict[str, Any]:
        """Cmd, Env, User …; empty where the image says nothing."""
        value = self.config.get("config")
        return value if isinstance(value, dict) else {}

    @property
    def repo_tags(self) -> list[str]:
        return [reference.parse(name).familiar for name in self.names]

    @property
    def created(self) -> str:
        return str(self.config.get("created") or "0001-01-01T00:00:00Z")

    def inspect(self) -> dict[str, Any]:
        """The shape of GET /images/{name}/json."""
        config = self.process_config
        return {
            "Id": self.id,
            "RepoTags": self.repo_tags,
            "RepoDigests": list(self.digests),
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
        rows = []
        for row in reversed(self.config.get("history") or []):
            rows.append(
                {
                    "Id": "<missing>",
                    "Created": row.get("created", ""),
                    "CreatedBy": row.get("created_by", ""),
                    "Tags": None,
                    "Size": 0,
                    "Comment": row.get("comment", ""),
                }
            )
        if rows:
            rows[0] |= {"Id": self.id, "Tags": self.repo_tags or None}
        return rows


@dataclass(frozen=True)
class ImageSource:
    """Where the launcher finds the tree of an image: see launcher.messages.MountImage."""

    key: str
    kind: str
    tree: Path
    layers: tuple[Path, ...] = ()
    exclude: tuple[str, ...] = field(default=())
