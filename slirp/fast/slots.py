"""Calls that wait for an answer, in memory that outlives the process which answers them.

The kernel writes a notification straight into a slot: whoever is killed at whatever moment, the next one on the same
memory finds all that were taken and not answered, and none is waited for in vain. The memory is the launcher's, a
mapping shared with the processes it forks."""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Iterator

from slirp.fast import calls

_SLOT_BYTES = 96
_WATCH = struct.Struct("=Q")
_WATCH_AT = calls.NOTIFICATION_BYTES
SLOTS = calls.FAST_SOCKETS_BYTES // _SLOT_BYTES


class Slots:
    """A watch is a number of a listener, the same for every process."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._free = [slot for slot in range(SLOTS) if not self._notification(slot).id]

    def receive(self, listener: int, watch: int) -> tuple[int, calls.Notification] | None:
        """(slot, notification) of a call that waits; None where its caller has gone. Raises IndexError where no slot is
        left, OSError."""
        slot = self._free.pop()
        at = slot * _SLOT_BYTES
        _WATCH.pack_into(self._memory, at + _WATCH_AT, watch)
        try:
            taken = calls.receive(listener, self._start + at)
        except OSError:
            self.release(slot)
            raise
        if not taken:
            self.release(slot)
            return None
        return slot, self._notification(slot)

    def release(self, slot: int) -> None:
        """It has been answered."""
        at = slot * _SLOT_BYTES
        self._memory[at : at + _SLOT_BYTES] = bytes(_SLOT_BYTES)
        self._free.append(slot)

    def left_behind(self, watch: int) -> Iterator[tuple[int, calls.Notification]]:
        """What another process has taken of this watch and not answered."""
        for slot in range(SLOTS):
            notification = self._notification(slot)
            if notification.id and _WATCH.unpack_from(self._memory, slot * _SLOT_BYTES + _WATCH_AT)[0] == watch:
                yield slot, notification

    def _notification(self, slot: int) -> calls.Notification:
        at = slot * _SLOT_BYTES
        return calls.parse(self._memory[at : at + calls.NOTIFICATION_BYTES])
