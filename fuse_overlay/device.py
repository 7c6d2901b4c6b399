"""The loop over a FUSE descriptor: requests checked and handed to the method of their opcode, answers written.

Shared by the servers; knows no file system."""

from __future__ import annotations

import errno
import mmap
import os
import struct
import time
from collections.abc import Callable, Mapping

from fuse_overlay.awake import staying_awake
from fuse_overlay.wire import structs as w

MAX_READ = 1 << 20
AWAKE_SECONDS = 100e-6  # after an answer; a client that takes longer to ask again pays for waking
BUFFER_BYTES = MAX_READ + (1 << 16)
_HEADER_BYTES = w.IN_HEADER.size
_SILENT = (w.FORGET, w.BATCH_FORGET, w.INTERRUPT)
Handler = Callable[[int, int, bytes], None]  # (unique, nodeid, body)
Request = bytearray | mmap.mmap  # its bytes, and room behind them


def request_buffer() -> mmap.mmap:
    """For one request. Its pages are there from the beginning, and no child shares them: where the kernel has to make
    one for a server that was killed meanwhile, it gives up, and the asker gets EIO in place of the next server's
    answer (fs/fuse/dev.c, fuse_dev_do_read)."""
    made = mmap.mmap(-1, BUFFER_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
    made.madvise(mmap.MADV_DONTFORK)
    return made


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
        awake_seconds: float = AWAKE_SECONDS,
    ) -> None:
        """Until unmounted. `resume`: an earlier server has done the INIT; what it held is asked for again. `write` gets
        WRITE requests: their body is not copied, and only good until it returns. `awake_seconds`: after an answer.

        Raises OSError from the device."""
        if resume:
            self.resend()
        buffer = request_buffer()
        receive, answer, now = self.receive, self.answer, time.monotonic
        awake = staying_awake(self.fd, awake_seconds)
        answered, quick = 0.0, False
        while True:
            if quick:
                awake.stay(answered)
            received = receive(buffer)
            if not received:
                return
            if (now() - answered < awake_seconds) != quick:
                quick = not quick
                awake.begin() if quick else awake.end()
            answer(handlers, buffer, received, write)
            answered = now()

    def resend(self) -> None:
        """Ask again for what a dead server had taken."""
        try:
            os.write(self.fd, w.OUT_HEADER.pack(w.OUT_HEADER.size, w.NOTIFY_RESEND, 0))
        except OSError:
            pass  # a kernel before 6.9: what the dead server held is lost, its callers can be interrupted

    def invalidate(self, nodeid: int, *, listing: bool = False) -> None:
        """The kernel is to ask again for a node's attributes, and for a directory's `listing`. Nothing of a file's
        contents is given up: that would wait for what is being read or written, by way of us."""
        length = w.OUT_HEADER.size + w.INVAL_INODE_OUT.size
        whole = w.INVAL_INODE_OUT.pack(nodeid, 0 if listing else -1, 0)
        self.write_one(w.OUT_HEADER.pack(length, w.NOTIFY_INVAL_INODE, 0) + whole)  # ENOENT: it knows nothing of it

    def receive(self, buffer: Request) -> int:
        """Wait for a request; its bytes, or 0 where the mount has gone."""
        while True:
            try:
                return os.readv(self.fd, (buffer,))
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return 0
                if error.errno not in (errno.EINTR, errno.EAGAIN, errno.ENOENT):  # ENOENT: interrupted before we had it
                    raise

    def answer(
        self,
        handlers: Mapping[int, Handler],
        buffer: Request,
        received: int,
        write: Callable[[int, int, memoryview], None] | None = None,
    ) -> None:
        """Give a request to its handler, and its asker an errno where that fails. Raises OSError from the device."""
        if received < _HEADER_BYTES:
            return
        length, opcode, unique, nodeid, self.uid, self.gid, self.pid, _, _ = w.IN_HEADER.unpack_from(buffer)
        if length != received:
            return
        body = memoryview(buffer)[_HEADER_BYTES:received]
        number = 0
        try:
            if opcode == w.WRITE and write is not None:
                write(unique, nodeid, body)
            elif (handler := handlers.get(opcode)) is not None:
                handler(unique, nodeid, bytes(body))
            else:
                number = errno.ENOSYS
        except Refused as refused:
            number = refused.errno
        except OSError as error:
            if error.filename == _DEVICE:
                raise
            number = error.errno or errno.EIO
        except (ValueError, IndexError, OverflowError, struct.error):  # a request or an index that lies
            number = errno.EIO
        except Exception:  # a mistake of ours: its asker is told, all others go on
            import traceback  # 7 ms that a start does not pay

            traceback.print_exc()
            number = errno.EIO
        if number and opcode not in _SILENT:
            self.error(unique, number)

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


def init_answer(body: bytes, wanted: int, background: int = 64) -> bytes:
    """The answer to INIT: of `wanted` what the kernel offers. `background`: requests that nobody waits for, at once."""
    _, minor, _, flags = w.INIT_IN.unpack_from(body)
    return w.INIT_OUT.pack(
        w.KERNEL_VERSION, min(minor, w.MINOR_WANTED), MAX_READ, wanted & flags, background, 48, MAX_READ, 1,
        MAX_READ // 4096, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    )  # fmt: skip
