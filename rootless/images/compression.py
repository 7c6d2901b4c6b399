"""What a layer or archive is packed with, found by its first bytes, and unpacked piece by piece.

Pieces are small whatever comes in: a megabyte can hold a terabyte of zeros. The libraries are imported when the first
archive of that kind comes: the engine's start does not pay for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import IO, Any, Protocol, cast

from rootless.model.errors import InvalidParameter

MAGIC_BYTES = 6
PIECE_BYTES = 512 << 10  # what comes out at once, at most: it stays in the processor's cache
_SLICE_BYTES = 128 << 10  # what goes in at once: what a library has not used is copied by it
_MAGICS = {
    "gzip": b"\x1f\x8b",
    "zstd": b"\x28\xb5\x2f\xfd",
    "xz": b"\xfd7zXZ\0",
    "bzip2": b"BZh",
}
Sink = Callable[[bytes], object]


class Unpacker:
    """unpack() pieces of any size in order, then finish(): what is packed is found out as it comes, and what comes out
    is given to `sink`. What is not packed comes out as it went in. Both raise InvalidParameter for damaged input, and
    what `sink` raises."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._first = b""
        self._members: _Stream | None = None
        self._known = False

    @property
    def packed(self) -> bool | None:
        """None until MAGIC_BYTES have come."""
        return self._members is not None if self._known else None

    def unpack(self, data: bytes) -> None:
        if not self._known:
            self._first += data
            if len(self._first) < MAGIC_BYTES:
                return
            data, self._first = self._first, b""
            self._known = True
            if kind := detect(data):
                self._members = _Zstd(self._sink) if kind == "zstd" else _Members(kind, self._sink)
        if self._members is None:
            self._sink(data)
        else:
            self._members.unpack(data)

    def finish(self) -> None:
        if self._members is not None:
            self._members.finish()
        elif self._first:
            self._sink(self._first)


def detect(first_bytes: bytes) -> str:
    """Its name ("gzip", "zstd", "xz", "bzip2"), or "" for none of them."""
    return next((name for name, magic in _MAGICS.items() if first_bytes.startswith(magic)), "")


class _Stream(Protocol):
    def unpack(self, data: bytes) -> None: ...

    def finish(self) -> None: ...


class _Members:
    """Compressed streams one after the other, as such files may be; zeros may follow the last."""

    def __init__(self, kind: str, sink: Sink) -> None:
        self._kind = kind
        self._sink = sink
        self._current = _decompressor(kind)
        self._fresh = True  # between two streams
        self._ended_once = False

    def unpack(self, data: bytes) -> None:
        for at in range(0, len(data), _SLICE_BYTES):
            self._slice(data[at : at + _SLICE_BYTES])

    def _slice(self, data: bytes) -> None:
        while data:
            if self._fresh and self._ended_once and not data.strip(b"\0"):
                return
            while True:
                try:
                    piece, data, more = self._current.step(data)
                except Exception as error:  # each library has an error class of its own
                    raise InvalidParameter(f"the {self._kind} data is damaged: {error}") from error
                if piece:
                    self._sink(piece)
                if not more:
                    break
            self._fresh = False
            if not self._current.ended:
                return
            data = self._current.rest
            self._current = _decompressor(self._kind)
            self._fresh = self._ended_once = True

    def finish(self) -> None:
        if not self._fresh or not self._ended_once:
            raise _truncated(self._kind)


class _Decompressor(Protocol):
    """step() gives a piece of what `data` unpacks to, what is left to give it, and whether it is to be asked again."""

    @property
    def ended(self) -> bool: ...

    @property
    def rest(self) -> bytes: ...

    def step(self, data: bytes) -> tuple[bytes, bytes, bool]: ...


def _decompressor(kind: str) -> _Decompressor:
    if kind == "gzip":
        return _Gzip()
    import bz2
    import lzma

    return _Buffering(lzma.LZMADecompressor() if kind == "xz" else bz2.BZ2Decompressor())


class _Gzip:
    """What is left is ours to keep."""

    def __init__(self) -> None:
        from isal import isal_zlib

        self._stream: Any = isal_zlib.decompressobj(wbits=31)

    @property
    def ended(self) -> bool:
        return bool(self._stream.eof)

    @property
    def rest(self) -> bytes:
        return bytes(self._stream.unused_data)

    def step(self, data: bytes) -> tuple[bytes, bytes, bool]:
        piece: bytes = self._stream.decompress(data, PIECE_BYTES)
        left: bytes = self._stream.unconsumed_tail
        return piece, left, not self._stream.eof and (bool(left) or len(piece) == PIECE_BYTES)


class _Buffering:
    """What is left is kept by the library (lzma, bz2)."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def ended(self) -> bool:
        return bool(self._stream.eof)

    @property
    def rest(self) -> bytes:
        return bytes(self._stream.unused_data)

    def step(self, data: bytes) -> tuple[bytes, bytes, bool]:
        piece: bytes = self._stream.decompress(data, PIECE_BYTES)
        return piece, b"", not self._stream.eof and not self._stream.needs_input


class _Zstd:
    """Frames one after the other. The library writes to us in pieces, but does not say whether a frame has ended: at
    the end it is given one more, which comes out only where it does not stand in the middle of another."""

    def __init__(self, sink: Sink) -> None:
        import zstandard

        self._sink = sink
        self._error = zstandard.ZstdError
        self._compress = zstandard.compress
        self._writer = zstandard.ZstdDecompressor().stream_writer(cast(IO[bytes], self), write_size=PIECE_BYTES)

    def write(self, piece: bytes) -> int:
        """Called by the library, which keeps the buffer."""
        self._sink(bytes(piece))
        return len(piece)

    def unpack(self, data: bytes) -> None:
        try:
            self._writer.write(data)
        except self._error as error:
            raise InvalidParameter(f"the zstd data is damaged: {error}") from error

    def finish(self) -> None:
        mark, came = os.urandom(16), bytearray()
        self._sink = came.extend
        try:
            self._writer.write(self._compress(mark))
        except self._error as error:
            raise _truncated("zstd") from error
        if came != mark:
            raise _truncated("zstd")


def _truncated(kind: str) -> InvalidParameter:
    return InvalidParameter(f"unexpected end of archive: the {kind} data is truncated")
