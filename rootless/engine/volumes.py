"""Named volumes: directories below data root/volumes/<name>/_data, with what docker shows of them beside."""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rootless.engine.record import Record
from rootless.engine.volume_specs import VOLUME_NAME
from rootless.model import clock
from rootless.model.errors import Conflict, InvalidParameter, NotFound
from rootless.settings import Settings
from rootless.store import files


class Making:
    """Volumes made for one create request; undone if it fails."""

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes
        self.made: list[str] = []

    def path(self, name: str) -> str:
        """The directory of a volume, made where missing."""
        if not VOLUME_NAME.fullmatch(name):
            raise InvalidParameter(f"invalid volume name: {name}")
        if not self._volumes.exists(name):
            self._volumes.create(name, {}, anonymous=name in self.made)
            self.made.append(name)
        return str(self._volumes.directory(name) / "_data")

    def new(self) -> str:
        name = secrets.token_hex(32)
        self._volumes.create(name, {}, anonymous=True)
        self.made.append(name)
        return name


class Volumes:
    """Blocking, quick."""

    def __init__(self, settings: Settings) -> None:
        self._root = settings.data_root / "volumes"
        self._trash = self._root / ".trash"  # no volume's name begins with a dot

    def directory(self, name: str) -> Path:
        return self._root / name

    def exists(self, name: str) -> bool:
        return bool(VOLUME_NAME.fullmatch(name)) and (self.directory(name) / "volume.json").exists()

    @contextmanager
    def making(self) -> Iterator[Making]:
        making = Making(self)
        try:
            yield making
        except BaseException:
            for name in making.made:
                shutil.rmtree(self.directory(name), ignore_errors=True)
            raise

    def create(self, name: str, labels: Mapping[str, str], anonymous: bool = False) -> dict[str, Any]:
        """What is there stays. Raises InvalidParameter, OSError."""
        if not VOLUME_NAME.fullmatch(name):
            raise InvalidParameter(
                f'create {name}: "{name}" includes invalid characters for a local volume name, only '
                '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
            )
        directory = self.directory(name)
        if not self.exists(name):
            (directory / "_data").mkdir(parents=True, exist_ok=True)
            value = {"created": clock.rfc3339(time.time_ns()), "labels": dict(labels), "anonymous": anonymous}
            files.write_file(directory / "volume.json", json.dumps(value).encode())
        return self.inspect(name)

    def inspect(self, name: str) -> dict[str, Any]:
        """The API's Volume. Raises NotFound."""
        if not self.exists(name):
            raise NotFound(f"get {name}: no such volume")
        value = json.loads((self.directory(name) / "volume.json").read_bytes())
        labels = dict(value["labels"])
        if value.get("anonymous"):
            labels["com.docker.volume.anonymous"] = ""
        return {
            "CreatedAt": value["created"],
            "Driver": "local",
            "Labels": labels or None,
            "Mountpoint": str(self.directory(name) / "_data"),
            "Name": name,
            "Options": None,
            "Scope": "local",
        }

    def all(self) -> list[dict[str, Any]]:
        if not self._root.exists():
            return []
        return [self.inspect(path.name) for path in sorted(self._root.iterdir()) if self.exists(path.name)]

    def remove(self, name: str, used_by: Mapping[str, str], force: bool = False) -> None:
        """`used_by`: volume name -> id of a container. Raises NotFound, Conflict."""
        if not self.exists(name):
            if force:
                return
            raise NotFound(f"get {name}: no such volume")
        if name in used_by:
            raise Conflict(f"remove {name}: volume is in use - [{used_by[name]}]")
        self._discard(name)

    def _discard(self, name: str) -> None:
        """Out of sight at once; some files may belong to subordinate ids, so the launcher deletes them."""
        self._trash.mkdir(exist_ok=True)
        self.directory(name).rename(self._trash / f"{name}.{secrets.token_hex(4)}")

    def discarded(self) -> list[Path]:
        return list(self._trash.iterdir()) if self._trash.exists() else []

    def remove_anonymous(self, record: Record) -> None:
        """Those of a removed container that have no name of their own."""
        for mount in record.mounts:
            name = str(mount.get("Name", ""))
            if self.exists(name) and "com.docker.volume.anonymous" in (self.inspect(name)["Labels"] or {}):
                self._discard(name)
