"""What has happened, for GET /events: the last EVENTS_KEPT, and a channel for each listener."""

from __future__ import annotations

import collections
import time
from collections.abc import Mapping
from typing import Any

import trio

EVENTS_KEPT = 256
QUEUED = 1024  # a listener further behind is cut off


class Events:
    """One per engine."""

    def __init__(self) -> None:
        self.kept: collections.deque[dict[str, Any]] = collections.deque(maxlen=EVENTS_KEPT)
        self._listeners: set[trio.MemorySendChannel[dict[str, Any]]] = set()

    def emit(self, kind: str, action: str, actor: str, attributes: Mapping[str, str]) -> None:
        """`kind` container, image, network or volume; the shape is the API's EventMessage."""
        now = time.time_ns()
        event: dict[str, Any] = {
            "Type": kind,
            "Action": action,
            "Actor": {"ID": actor, "Attributes": dict(attributes)},
            "scope": "local",
            "time": now // 10**9,
            "timeNano": now,
        }
        if kind in ("container", "image"):
            event |= {"status": action, "id": actor}
        if kind == "container":
            event["from"] = attributes.get("image", "")
        self.kept.append(event)
        for listener in list(self._listeners):
            try:
                listener.send_nowait(event)
            except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
                self._listeners.discard(listener)
                listener.close()

    def listen(self) -> trio.MemoryReceiveChannel[dict[str, Any]]:
        """Close it when done."""
        send, receive = trio.open_memory_channel[dict[str, Any]](QUEUED)
        self._listeners.add(send)
        return receive
