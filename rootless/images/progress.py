"""Progress of a layer, in the messages of docker's API: a status, and where something moves numbers and a bar."""

from __future__ import annotations

from collections.abc import AsyncIterator

from rootless.images.storing import Progress
from rootless.model.bars import drawn

REPORTS = 50  # of one layer, at most; and none below so many bytes apart:
REPORT_BYTES = 512 << 10


class Bar:
    """Of the layer that is shown as `short`."""

    def __init__(self, short: str, progress: Progress) -> None:
        self._short = short
        self._progress = progress
        self._reported = 0

    def say(self, status: str) -> None:
        self._progress({"status": status, "progressDetail": {}, "id": self._short})

    def moved(self, status: str, current: int, total: int) -> None:
        """Told to the client where it is far enough from what it was told last."""
        if 0 <= current - self._reported < max(REPORT_BYTES, total // REPORTS):
            return
        self._reported = current
        detail = {"current": current, "total": total}
        self._progress(
            {"status": status, "progressDetail": detail, "progress": drawn(current, total), "id": self._short}
        )

    async def counted(self, pieces: AsyncIterator[bytes], start: int, total: int) -> AsyncIterator[bytes]:
        """The same pieces, of a download that begins at byte `start`."""
        received = start
        async for piece in pieces:
            yield piece
            received += len(piece)
            self.moved("Downloading", received, total)
