"""`import`: the tar of a root file system becomes an image of one layer. Streams; nothing is unpacked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import trio

from rootless.images import changes
from rootless.images.storing import LayerBeingStored, place_image, write_ahead
from rootless.model import platforms, reference
from rootless.model.platforms import Platform
from rootless.store import files
from rootless.store.layout import Layout


@dataclass(frozen=True)
class ImportRequest:
    """`name` is a reference or nothing; `changes` Dockerfile instructions; `message` goes into the history, as does the
    `source`, an address or "-"."""

    name: str = ""
    changes: tuple[str, ...] = ()
    message: str = ""
    platform: Platform = field(default_factory=platforms.here)
    source: str = "-"


async def import_archive(layout: Layout, chunks: AsyncIterator[bytes], request: ImportRequest) -> str:
    """Returns the new image's id. Raises InvalidParameter (archive, changes, name), RootlessError (disk)."""
    name = reference.parse(request.name).name if request.name else ""
    config = changes.apply({}, request.changes)  # refused before a byte is read
    with ExitStack() as cleaning:
        making = await trio.to_thread.run_sync(_Making, layout, cleaning)
        await write_ahead(chunks, making.write)
        return await trio.to_thread.run_sync(making.finish, name, config, request)


class _Making:
    """The blocking half: one layer being written in a temporary directory."""

    def __init__(self, layout: Layout, cleaning: ExitStack) -> None:
        self._layout = layout
        self._directory = cleaning.enter_context(files.temporary_directory(layout.temporary))
        self._layer = LayerBeingStored(self._directory / "layer")
        cleaning.callback(self._layer.abort)
        self.write = self._layer.write

    def finish(self, name: str, config: dict[str, Any], request: ImportRequest) -> str:
        layer = self._layer.finish()
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        image_config = {
            "created": now,
            **request.platform.image_fields(),
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
            "history": [{"created": now, "comment": request.message or f"Imported from {request.source}"}],
        }
        encoded = json.dumps(image_config).encode()
        made = {layer.diff_id: self._layer.directory}
        return place_image(self._layout, made, encoded, [name], self._directory)
