"""One container in memory: its record, state, streams, and who waits for what. The decisions are in `containers`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import trio

from rootless.engine.logs import LogWriter
from rootless.engine.record import Record, State
from rootless.engine.streams import Streams
from rootless.model import states


@dataclass(eq=False)
class Container:
    """`exited` is of the run in hand, `stopped_once` of the next exit, `removed` of the container."""

    record: Record
    state: State
    streams: Streams = field(default_factory=Streams)
    lock: trio.Lock = field(default_factory=trio.Lock)
    log: LogWriter | None = None
    exit_status: tuple[int, float] | None = None  # status, Unix time: of the run in hand
    exited: trio.Event = field(default_factory=trio.Event)  # the launcher has said so
    finished: trio.Event = field(default_factory=trio.Event)  # and everything is on disk
    next_exit: trio.Event = field(default_factory=trio.Event)
    removed: trio.Event = field(default_factory=trio.Event)
    execs: set[str] = field(default_factory=set)

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def running(self) -> bool:
        return self.state.status == states.RUNNING

    @property
    def terminal(self) -> bool:
        return bool(self.record.config["Tty"])

    @property
    def attributes(self) -> dict[str, str]:
        """Of its events."""
        labels: dict[str, Any] = self.record.config["Labels"]
        return {**{k: str(v) for k, v in labels.items()}, "image": self.record.image, "name": self.name}

    def begin_run(self) -> None:
        self.exit_status = None
        self.exited = trio.Event()
        self.finished = trio.Event()

    def end_run(self) -> None:
        self.finished.set()
        ended, self.next_exit = self.next_exit, trio.Event()
        ended.set()
