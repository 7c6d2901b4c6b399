"""What a TCP flow stands between: the host's socket, the way to the guest, and where memory comes from. Implemented in
`host`, and by fakes in `slirp.testing`."""

from __future__ import annotations

from typing import Protocol


class HostReset(Exception):
    """The host's socket has failed; the guest gets a RST."""


class Host(Protocol):
    """The host's socket."""

    def read_into(self, views: list[memoryview]) -> int | None:
        """Bytes read, which fill one after the other; 0 at the end, None where there is nothing now. Raises
        HostReset."""

    def write(self, data: bytes | memoryview) -> int:
        """Bytes taken, 0 where it takes none now. Raises HostReset."""

    def finish(self) -> None:
        """No more from the guest: shutdown(SHUT_WR)."""

    def close(self, reset: bool) -> None:
        """Give the socket up; with `reset` its peer sees a RST."""

    def want(self, read: bool, write: bool) -> None:
        """Which readiness to report."""


class Guest(Protocol):
    """The way to the guest."""

    def transmit(
        self,
        flags: int,
        sequence: int,
        acknowledgment: int,
        window: int,
        options: bytes,
        payload: bytes | memoryview,
        mss: int,
    ) -> bool:
        """Send a segment, of any size up to Buffers.SIZE; it may be lost. False: not sent, the device is full."""


class Buffers(Protocol):
    """Where memory for data to guests comes from."""

    def take(self) -> memoryview | None:
        """A large buffer, or None where the limit is reached."""

    def give(self, buffer: memoryview) -> None: ...

    def hold(self, count: int) -> bool:
        """Whether `count` bytes more may be kept elsewhere; until `release`."""

    def release(self, count: int) -> None: ...
