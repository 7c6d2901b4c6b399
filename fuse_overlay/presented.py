"""Answers with other owners and link counts than the files have: `squash_to_…` and `static_nlink` of fuse-overlayfs.

Laid over the device, so that no server knows of it: what an answer holds follows from its request's opcode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fuse_overlay.device import Device, Handler, Request
from fuse_overlay.wire import structs as w

_ENTRY_ANSWERS = {w.LOOKUP, w.SYMLINK, w.MKNOD, w.MKDIR, w.LINK, w.CREATE, w.TMPFILE}
_ATTR_ANSWERS = {w.GETATTR, w.SETATTR}
_MODE, _LINKS, _UID, _GID = 60, 64, 68, 72  # struct fuse_attr
_NAME_LENGTH = w.ENTRY.size + w.ATTR.size + 16  # in a struct fuse_direntplus
_NAME = w.ENTRY.size + w.ATTR.size + w.DIRENT.size
_DIRECTORY = 4  # st_mode >> 12


@dataclass(frozen=True)
class Presentation:
    """`uid` and `gid` of everything, -1: as they are. `one_link`: directories have a link count of 1."""

    uid: int = -1
    gid: int = -1
    one_link: bool = False

    def __bool__(self) -> bool:
        return self.one_link or self.uid >= 0 or self.gid >= 0


class PresentingDevice(Device):
    """A device whose answers are changed on their way."""

    def __init__(self, fd: int, presentation: Presentation) -> None:
        super().__init__(fd)
        self._presentation = presentation
        self._opcode = 0

    def answer(
        self,
        handlers: Mapping[int, Handler],
        buffer: Request,
        received: int,
        write: Callable[[int, int, memoryview], None] | None = None,
    ) -> None:
        self._opcode = int.from_bytes(buffer[4:8], "little")
        super().answer(handlers, buffer, received, write)

    def write(self, parts: list[bytes | memoryview]) -> None:
        if self._opcode == w.READDIRPLUS:
            self.write_one(b"".join(parts))
        else:
            super().write(parts)

    def write_one(self, answer: bytes | memoryview) -> None:
        head = w.OUT_HEADER.size
        if self._opcode in _ENTRY_ANSWERS and len(answer) >= head + w.ENTRY.size + w.ATTR.size:
            if any(answer[head : head + 8]):  # else there is no such name
                answer = self._changed(answer, [head + w.ENTRY.size])
        elif self._opcode in _ATTR_ANSWERS and len(answer) >= head + w.ATTR_OUT.size + w.ATTR.size:
            answer = self._changed(answer, [head + w.ATTR_OUT.size])
        elif self._opcode == w.READDIRPLUS:
            places, at = [], head
            while at + _NAME <= len(answer):
                places.append(at + w.ENTRY.size)
                at += w.pad8(_NAME + int.from_bytes(answer[at + _NAME_LENGTH : at + _NAME_LENGTH + 4], "little"))
            answer = self._changed(answer, places)
        super().write_one(answer)

    def _changed(self, answer: bytes | memoryview, places: list[int]) -> bytes:
        changed, wanted = bytearray(answer), self._presentation
        for at in places:
            for offset, value in ((_UID, wanted.uid), (_GID, wanted.gid)):
                if value >= 0:
                    changed[at + offset : at + offset + 4] = value.to_bytes(4, "little")
            if wanted.one_link and int.from_bytes(changed[at + _MODE : at + _MODE + 4], "little") >> 12 == _DIRECTORY:
                changed[at + _LINKS : at + _LINKS + 4] = (1).to_bytes(4, "little")
        return bytes(changed)
