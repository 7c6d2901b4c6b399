"""Which images the containers of every engine on this data root need, so that no engine removes what another runs.

    uses/<engine>/<container id>     its text is the image id; <engine> is this host and its state root

An engine writes those of its own containers, and puts them right at its start."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from rootless.model.errors import RootlessError
from rootless.store import files

ID_LETTERS = 12  # of a container's id


class Uses:
    """Blocking, quick."""

    def __init__(self, data_root: Path, state_root: Path) -> None:
        self._all = data_root / "uses"
        host = socket.gethostname()
        digest = hashlib.sha256(f"{host}\0{os.path.realpath(state_root)}".encode()).hexdigest()
        self._mine = self._all / f"{''.join(c for c in host if c.isalnum() or c in '-.')[:40]}-{digest[:16]}"

    def put_right(self, images: Mapping[str, str]) -> None:
        """Container id -> image id: all that this engine has. Raises OSError."""
        self._mine.mkdir(parents=True, exist_ok=True)
        for container_id, image_id in images.items():
            if not (self._mine / container_id).exists():
                self.add(container_id, image_id)
        for path in self._mine.iterdir():
            if path.name not in images:
                path.unlink(missing_ok=True)

    def add(self, container_id: str, image_id: str) -> None:
        """Raises RootlessError."""
        try:
            self._mine.mkdir(parents=True, exist_ok=True)
            (self._mine / container_id).write_text(image_id)
        except OSError as error:
            raise RootlessError(f"cannot write to {self._mine}: {error.strerror}") from error

    def remove(self, container_id: str) -> None:
        (self._mine / container_id).unlink(missing_ok=True)

    def all(self) -> list[tuple[str, str]]:
        """(image id, container) of every engine; another engine's container is told with its engine."""
        if not self._all.is_dir():
            return []
        files.look_again(self._all)
        found = []
        for directory in self._all.iterdir():
            for path in directory.iterdir():
                try:
                    image_id = path.read_text()
                except OSError:
                    continue
                where = "" if directory == self._mine else f" of {directory.name}"
                found.append((image_id, path.name[:ID_LETTERS] + where))
        return found

    def forget(self, engine: str) -> None:
        """Drop what an engine that is gone for good had. Raises OSError."""
        shutil.rmtree(self._all / engine)
