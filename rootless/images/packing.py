"""A layer's tar -> gzip, the same bytes whatever the machine, the number of threads or the day: digests are stable.

Blocks are compressed side by side, each with the end of the one before as its dictionary, and joined to one stream (RFC
1952, RFC 1951). The bytes depend on the block size, the level and the release of zlib-ng alone. Blocking."""

from __future__ import annotations

import hashlib
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

BLOCK_BYTES = 1 << 20
LEVEL = 6
_WINDOW_BYTES = 32 << 10
# magic, deflate, no flags, no time, no extra flags, unknown system
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


def pack(tar: Path, target: BinaryIO, moved: Callable[[int], None]) -> tuple[str, int]:
    """Write the gzip of a file to `target`; returns its digest and size. `moved` is told the bytes read so far.

    Raises OSError."""
    digest, size, read = hashlib.sha256(), 0, 0
    threads = os.cpu_count() or 1
    with open(tar, "rb", buffering=0) as file, ThreadPoolExecutor(threads) as pool:
        for piece, taken in _pieces(file, pool, threads * 2):
            target.write(piece)
            digest.update(piece)
            size += len(piece)
            read += taken
            moved(read)
    target.flush()
    return f"sha256:{digest.hexdigest()}", size


def _pieces(file: BinaryIO, pool: ThreadPoolExecutor, ahead: int) -> Iterator[tuple[bytes, int]]:
    """(piece of the gzip, bytes of the file it stands for); at most `ahead` blocks are in memory."""
    from zlib_ng import zlib_ng

    waiting: deque[tuple[Future[bytes], int]] = deque()
    crc, size, before = 0, 0, b""
    block = _read(file)
    yield _HEADER, 0
    while True:
        following = _read(file) if block else b""
        crc = zlib_ng.crc32(block, crc)
        size += len(block)
        waiting.append((pool.submit(_deflate, block, before, not following), len(block)))
        if len(waiting) >= ahead or not following:
            while waiting and (not following or len(waiting) >= ahead):
                done, taken = waiting.popleft()
                yield done.result(), taken
        if not following:
            break
        before, block = block[-_WINDOW_BYTES:], following
    yield struct.pack("<II", crc, size & 0xFFFFFFFF), 0


def _read(file: BinaryIO) -> bytes:
    data = file.read(BLOCK_BYTES)
    while data and len(data) < BLOCK_BYTES and (more := file.read(BLOCK_BYTES - len(data))):
        data += more
    return data


def _deflate(block: bytes, before: bytes, last: bool) -> bytes:
    from zlib_ng import zlib_ng

    if before:
        packer = zlib_ng.compressobj(LEVEL, zlib_ng.DEFLATED, -15, 8, zlib_ng.Z_DEFAULT_STRATEGY, before)
    else:
        packer = zlib_ng.compressobj(LEVEL, zlib_ng.DEFLATED, -15, 8)
    return packer.compress(block) + packer.flush(zlib_ng.Z_FINISH if last else zlib_ng.Z_SYNC_FLUSH)
