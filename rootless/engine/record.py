"""What is on disk of one container: config.json, written once, and state.json, written at every change.

    state root/containers/<id>/{config.json, state.json, log.json, upper/, work/, hosts, hostname, resolv.conf}
    state root/trash/<id>                                  removed, its files not yet deleted

A directory without config.json was never created to its end; no state.json means `created`."""

from __future__ import annotations

import dataclasses
import json
import secrets
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rootless.model import clock, states
from rootless.store import files

_ADJECTIVES = (
    "amber brisk calm clever crisp deep eager early fair fond gentle glad golden green hardy keen kind light lively "
    "loyal lucky mellow mild misty nimble noble patient plain polite proud quick quiet ready silver sleek steady sunny "
    "tidy tough warm wild wise young"
).split()
_TREES = (
    "acacia alder apple ash aspen bamboo banyan beech birch cedar cherry chestnut cypress dogwood ebony elder elm fig "
    "fir ginkgo hawthorn hazel hemlock hickory holly juniper larch laurel lime linden magnolia maple oak olive palm "
    "pear pine plum poplar rowan sequoia spruce sycamore teak walnut willow yew"
).split()


@dataclass(frozen=True)
class Record:
    """A container as it was created. `config` and `host_config` are the API's objects, complete."""

    id: str
    name: str
    created: str
    image: str
    image_id: str
    args: tuple[str, ...]
    config: dict[str, Any]
    host_config: dict[str, Any]
    endpoints: dict[str, Any] = field(default_factory=dict)
    mounts: tuple[dict[str, Any], ...] = ()  # as inspect shows them
    platform: str = "linux"


@dataclass
class State:
    """What changes. `ports` are the publications in force: rows of (container port, protocol, host ip, host port).
    `networks`: network name -> {"IPAddress", "MacAddress", …} as the API shows an endpoint, while it runs."""

    status: str = states.CREATED
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    started_at: str = clock.ZERO
    finished_at: str = clock.ZERO
    restarts: int = 0
    driver: str = ""  # the storage driver of the last start
    ports: list[tuple[int, str, str, int]] = field(default_factory=list)
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    interfaces: dict[str, str] = field(default_factory=dict)  # network name -> "eth0"
    primary_network: str = ""  # the name of the one with the default route


def new_id() -> str:
    """64 hexadecimal digits. The first twelve are a host name, and one of decimal digits alone (one of 280 would be) is
    an address to who looks it up."""
    while True:
        made = secrets.token_hex(32)
        if not made[:12].isdecimal():
            return made


def new_name(taken: Collection[str]) -> str:
    """adjective_tree, with a number where all of a few tries are taken."""
    for attempt in range(20):
        name = f"{secrets.choice(_ADJECTIVES)}_{secrets.choice(_TREES)}"
        if attempt > 5:
            name += str(secrets.randbelow(1000))
        if name not in taken:
            return name
    return f"container_{secrets.token_hex(6)}"


class Records:
    """The directories of all containers of one state root. Blocking, quick."""

    def __init__(self, state_root: Path) -> None:
        self.containers = state_root / "containers"
        self.trash = state_root / "trash"

    def prepare(self) -> None:
        """Raises OSError."""
        for directory in (self.containers, self.trash):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def directory(self, container_id: str) -> Path:
        return self.containers / container_id

    def add(self, record: Record) -> None:
        """Raises OSError and leaves nothing."""
        directory = self.directory(record.id)
        directory.mkdir(mode=0o700)
        try:
            for part in ("upper", "work"):
                (directory / part).mkdir(mode=0o755)
            self.save(record)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise

    def save(self, record: Record) -> None:
        data = json.dumps(dataclasses.asdict(record)).encode()
        files.write_file(self.directory(record.id) / "config.json", data)

    def save_state(self, container_id: str, state: State) -> None:
        data = json.dumps(dataclasses.asdict(state)).encode()
        files.write_file(self.directory(container_id) / "state.json", data)

    def load(self) -> Iterator[tuple[Record, State]]:
        """All containers; what was never finished goes to the trash."""
        for directory in sorted(self.containers.iterdir()):
            try:
                yield _load(directory)
            except (OSError, ValueError, TypeError, KeyError):
                self.discard(directory.name)

    def discard(self, container_id: str) -> None:
        """Make a container disappear at once; its files are deleted later."""
        target = self.trash / container_id
        number = 0
        while target.exists():
            number += 1
            target = self.trash / f"{container_id}.{number}"
        (self.directory(container_id)).rename(target)

    def discarded(self) -> list[Path]:
        return list(self.trash.iterdir())


def _load(directory: Path) -> tuple[Record, State]:
    value = json.loads((directory / "config.json").read_bytes())
    record = Record(**{**value, "args": tuple(value["args"]), "mounts": tuple(value["mounts"])})
    try:
        state = State(**json.loads((directory / "state.json").read_bytes()))
    except FileNotFoundError:
        state = State()
    state.ports = [(int(row[0]), str(row[1]), str(row[2]), int(row[3])) for row in state.ports]
    return record, state
