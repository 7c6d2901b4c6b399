"""`commit`: what a container wrote becomes a layer on top of its image's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trio

from rootless.images import changes
from rootless.images.image import Image
from rootless.images.storing import LayerBeingStored, place_image, write_ahead
from rootless.model import reference
from rootless.store import files
from rootless.store.layout import Layout

EMPTY_TAR_BYTES = 1024
# what an image's configuration has of a container's (image-spec, config.md; docker's Healthcheck, OnBuild and Shell)
_KEPT = (
    *("User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal"),
    *("Healthcheck", "OnBuild", "Shell"),
)


@dataclass(frozen=True)
class CommitRequest:
    """`config` is a container's configuration as the API has it: what it gives wins over the container's own."""

    name: str = ""
    changes: tuple[str, ...] = ()
    message: str = ""
    author: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)


def check(request: CommitRequest, config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(canonical name or "", the new image's `config`), before anything is read. Raises InvalidParameter."""
    name = reference.parse(request.name).name if request.name else ""
    kept = {key: config[key] for key in _KEPT if config.get(key)}
    kept |= {key: request.config[key] for key in _KEPT if request.config.get(key)}
    return name, changes.apply(kept, request.changes)


async def commit_layer(
    layout: Layout, base: Image, tar: AsyncIterator[bytes], request: CommitRequest, config: Mapping[str, Any], by: str
) -> str:
    """`config` is the container's, `by` its command line. Returns the new image's id. Raises InvalidParameter,
    RootlessError."""
    name, made_config = check(request, config)
    with ExitStack() as cleaning:
        making = await trio.to_thread.run_sync(_Making, layout, base, cleaning)
        await write_ahead(tar, making.layer.write)
        return await trio.to_thread.run_sync(making.finish, name, made_config, request, by)


class _Making:
    """The blocking half."""

    def __init__(self, layout: Layout, base: Image, cleaning: ExitStack) -> None:
        self._layout, self._base = layout, base
        self._directory = cleaning.enter_context(files.temporary_directory(layout.temporary))
        layout.hold(self._directory, base.layers)
        self.layer = LayerBeingStored(self._directory / "layer")
        cleaning.callback(self.layer.abort)

    def finish(self, name: str, config: Mapping[str, Any], request: CommitRequest, by: str) -> str:
        layer = self.layer.finish()
        empty = layer.size <= EMPTY_TAR_BYTES
        made: dict[str, Path] = {} if empty else {layer.diff_id: self.layer.directory}
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        row: dict[str, Any] = {"created": now, "created_by": by, "author": request.author, "comment": request.message}
        row = {key: value for key, value in row.items() if value} | ({"empty_layer": True} if empty else {})
        base = self._base.config
        encoded = json.dumps(
            {
                **{key: base[key] for key in ("architecture", "variant", "os", "os.version") if base.get(key)},
                "created": now,
                **({"author": request.author} if request.author else {}),
                "config": config,
                "rootfs": {"type": "layers", "diff_ids": [*self._base.layers, *made]},
                "history": [*(base.get("history") or []), row],
            }
        ).encode()
        return place_image(self._layout, made, encoded, [name] if name else [], self._directory)
