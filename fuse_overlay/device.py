"""The loop over a FUSE descriptor: requests checked and handed to the method of their opcode, answers written.

Shared by the servers; knows no file system. A plain blocking read: a request costs two context switches, and anything
between them would cost more."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Mapping

from fuse_overlay.wire import structs as w

MAX_READ = 1 << 20
Handler = Callable[[int, int, bytes], None]  # (unique, nodeid, body)


class Refused(Exception):
    """A request's answer is this errno."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.errno = number


class Device:
    """An open /dev/fuse descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def serve(self, handlers: Mapping[int, Handler], *, resume: bool) -> None:
        """Until unmounted. `resume`: an earlier server has done the INIT; what it held is asked for again.

        Raises OSError from the device."""
        if resume:
            try:
                os.write(self.fd, w.OUT_HEADER.pack(w.OUT_HEADER.size, w.NOTIFY_RESEND, 0))
            except OSError:
                pass  # a kernel before 6.9: what the dead server held is lost, its callers can be interrupted
        buffer = bytearray(MAX_READ + (1 << 16))
        view = memoryview(buffer)
        header = w.IN_HEADER.size
        silent = (w.FORGET, w.BATCH_FORGET, w.INTERRUPT)
        while True:
            try:
                received = os.readv(self.fd, [buffer])
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                if error.errno == errno.ENODEV:
                    return
                raise
            try:
                request = w.parse_request(buffer, received)
            except ValueError:
                continue
            if request.opcode in silent:
                continue
            handler = handlers.get(request.opcode)
            try:
                if handler is None:
                    self.error(request.unique, errno.ENOSYS)
                else:
                    handler(request.unique, request.nodeid, bytes(view[header:received]))
            except Refused as refused:
                self.error(request.unique, refused.errno)
            except (ValueError, IndexError, OverflowError, struct.error):
                self.error(request.unique, errno.EIO)

    def write(self, parts: list[bytes | memoryview]) -> None:
        """A whole answer, header first."""
        try:
            os.writev(self.fd, parts)
        except OSError as error:
            if error.errno != errno.ENOENT:  # ENOENT: the asker was interrupted and has gone
                raise

    def reply(self, unique: int, body: bytes = b"") -> None:
        self.write([w.OUT_HEADER.pack(w.OUT_HEADER.size + len(body), 0, unique), body])

    def error(self, unique: int, number: int) -> None:
        self.write([w.OUT_HEADER.pack(w.OUT_HEADER.size, -number, unique)])


def init_answer(body: bytes, wanted: int) -> bytes:
    """The answer to INIT: of `wanted` what the kernel offers."""
    _, minor, _, flags = w.INIT_IN.unpack_from(body)
    return w.INIT_OUT.pack(
        w.KERNEL_VERSION, min(minor, w.MINOR_WANTED), MAX_READ, wanted & flags, 64, 48, MAX_READ, 1,
        MAX_READ // 4096, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    )  # fmt: skip
