"""Captures that tshark and Wireshark read (draft-ietf-opsawg-pcap). Frames are shown as they are on the device: before
they are cut into packets, and with checksums that are not computed yet."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence

_HEADER = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")
_MAGIC_NANOSECONDS, _ETHERNET, _SNAP_BYTES = 0xA1B23C4D, 1, 262144
VIRTIO_BYTES = 12


class Capture:
    """Writes to a descriptor that becomes its own. A pipe that takes no more loses frames; a closed one ends it."""

    def __init__(self, fd: int) -> None:
        """Raises OSError."""
        self.fd = fd
        self._rest = b""
        self._ended = False
        os.set_blocking(fd, False)
        os.write(fd, _HEADER.pack(_MAGIC_NANOSECONDS, 2, 4, 0, 0, _SNAP_BYTES, _ETHERNET))

    def frame(self, parts: Sequence[bytes | memoryview]) -> bool:
        """A frame with its virtio header, in parts. False: nobody reads any more."""
        data = b"".join(parts)[VIRTIO_BYTES:]
        now = time.time_ns()
        record = _RECORD.pack(now // 10**9, now % 10**9, len(data), len(data))
        if self._write(self._rest):
            self._write(record + data)
        return not self._ended

    def _write(self, data: bytes) -> bool:
        """Whether nothing is left of it. What is, is kept: a record must not be torn."""
        if not data:
            return True
        try:
            self._rest = data[os.write(self.fd, data) :]
        except BlockingIOError:
            if data is not self._rest:
                return False  # nothing of it is there: it is lost
        except OSError:
            self._ended = True
            self._rest = b""
        return not self._rest

    def close(self) -> None:
        os.close(self.fd)
