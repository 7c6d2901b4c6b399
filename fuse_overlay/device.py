"""The loop over a FUSE descriptor: requests checked and handed to the method of their opcode, answers written.

Shared by the servers; knows no file system. A plain blocking read: a request costs two context switches, and anything
between them would cost more. Most of that cost is waking the other CPU, so the server follows its client
(`CpuFollower`)."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Mapping

from fuse_overlay.cpu_follower import CpuFollower
from fuse_overlay.wire import structs as w

MAX_READ = 1 << 20
Handler = Callable[[int, int, bytes], None]  # (unique, nodeid, body)


class Refused(Exception):
    """A request's answer is this errno."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.errno = number


class Device:
    """An open /dev/fuse descriptor. `uid`, `gid` and `pid` are those of the request being handled."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.uid = self.gid = self.pid = 0

    def serve(
        self,
        handlers: Mapping[int, Handler],
        *,
        resume: bool,
        write: Callable[[int, int, memoryview], None] | None = None,
    ) -> None:
        """Until unmounted. `resume`: an earlier server has done the INIT; what it held is asked for again. `write` gets
        WRITE requests: their body is not copied, and only good until it returns.

        Raises OSError from the device."""
        if resume:
            try:
                os.write(self.fd, w.OUT_HEADER.pack(w.OUT_HEADER.size, w.NOTIFY_RESEND, 0))
            except OSError:
                pass  # a kernel before 6.9: what the dead server held is lost, its callers can be interrupted
        buffer = bytearray(MAX_READ + (1 << 16))
        view = memoryview(buffer)
        buffers = [buffer]
        unpack, size = w.IN_HEADER.unpack_from, w.IN_HEADER.size
        silent = (w.FORGET, w.BATCH_FORGET, w.INTERRUPT)
        fd, readv, find = self.fd, os.readv, handlers.get
        follower = CpuFollower()
        follow = follower.seen if follower.useful else None
        while True:
            try:
                received = readv(fd, buffers)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                if error.errno == errno.ENODEV:
                    return
                raise
            if received < size:
                continue
            length, opcode, unique, nodeid, self.uid, self.gid, self.pid, _, _ = unpack(buffer)
            if length != received:
                continue
            if follow is not None:
                follow(self.pid)
            try:
                if opcode == w.WRITE and write is not None:
                    write(unique, nodeid, view[size:received])
                elif (handler := find(opcode)) is not None:
                    handler(unique, nodeid, bytes(view[size:received]))
                elif opcode not in silent:
                    self.error(unique, errno.ENOSYS)
            except Refused as refused:
                self.error(unique, refused.errno)
            except OSError as error:
                if error.filename == _DEVICE:
                    raise
                self.error(unique, error.errno or errno.EIO)
            except (ValueError, IndexError, OverflowError, struct.error):
                self.error(unique, errno.EIO)

    def write(self, parts: list[bytes | memoryview]) -> None:
        """A whole answer, header first."""
        try:
            os.writev(self.fd, parts)
        except OSError as error:
            _unless_gone(error)

    def write_one(self, answer: bytes | memoryview) -> None:
        """A whole answer in one piece."""
        try:
            os.write(self.fd, answer)
        except OSError as error:
            _unless_gone(error)

    def reply(self, unique: int, body: bytes = b"") -> None:
        self.write_one(w.OUT_HEADER.pack(w.OUT_HEADER.size + len(body), 0, unique) + body)

    def error(self, unique: int, number: int) -> None:
        self.write_one(w.OUT_HEADER.pack(w.OUT_HEADER.size, -number, unique))


_DEVICE = "/dev/fuse"


def _unless_gone(error: OSError) -> None:
    """ENOENT: the asker was interrupted and has gone. EINVAL: the kernel cannot use it, and told the asker EIO."""
    if error.errno not in (errno.ENOENT, errno.EINVAL):
        raise OSError(error.errno, error.strerror, _DEVICE) from error


def init_answer(body: bytes, wanted: int) -> bytes:
    """The answer to INIT: of `wanted` what the kernel offers."""
    _, minor, _, flags = w.INIT_IN.unpack_from(body)
    return w.INIT_OUT.pack(
        w.KERNEL_VERSION, min(minor, w.MINOR_WANTED), MAX_READ, wanted & flags, 64, 48, MAX_READ, 1,
        MAX_READ // 4096, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    )  # fmt: skip
