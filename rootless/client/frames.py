"""Docker's multiplexed stream: frames of an eight-byte header (stream, three zero bytes, length) and the payload. Pure.

Source: API description, "Attach to a container", "Stream format"."""

from __future__ import annotations

from rootless.model.errors import RootlessError

STDIN, STDOUT, STDERR, SYSTEM_ERROR = range(4)
HEADER_BYTES = 8


class FrameReader:
    """Bytes in, (stream, data) out; the data of a frame is given as it comes, not when the frame is whole."""

    def __init__(self) -> None:
        self._header = b""
        self._stream = STDOUT
        self._left = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """What these bytes add. Raises RootlessError where they are no such stream."""
        found: list[tuple[int, bytes]] = []
        at = 0
        while at < len(data):
            if self._left:
                piece = data[at : at + self._left]
                self._left -= len(piece)
                at += len(piece)
                found.append((self._stream, piece))
                continue
            taken = data[at : at + HEADER_BYTES - len(self._header)]
            self._header += taken
            at += len(taken)
            if len(self._header) == HEADER_BYTES:
                self._begin()
        return found

    def _begin(self) -> None:
        if self._header[0] > SYSTEM_ERROR or self._header[1:4] != b"\0\0\0":
            raise RootlessError(f"unrecognized stream: {self._header.hex()} is not a frame's header")
        self._stream = self._header[0]
        self._left = int.from_bytes(self._header[4:8], "big")
        self._header = b""

    @property
    def whole(self) -> bool:
        """Whether the stream may end here."""
        return not self._left and not self._header


def frame(stream: int, data: bytes) -> bytes:
    """One frame, as the engine sends it."""
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data
