"""What a layer or archive is packed with, found by its first bytes, and unpacked piece by piece.

The libraries are imported when the first archive of that kind comes: the engine's start does not pay for them."""

from __future__ import annotations

from typing import Protocol

from rootless.model.errors import InvalidParameter

MAGIC_BYTES = 6
_MAGICS = {
    "gzip": b"\x1f\x8b",
    "zstd": b"\x28\xb5\x2f\xfd",
    "xz": b"\xfd7zXZ\0",
    "bzip2": b"BZh",
}


class Unpacker:
    """unpack() pieces of any size in order, then finish(): what is packed is found out as it comes. What is not packed
    comes out as it went in. Both raise InvalidParameter for damaged input."""

    def __init__(self) -> None:
        self._first = b""
        self._members: _Members | None = None
        self._known = False

    @property
    def packed(self) -> bool:
        """Known once MAGIC_BYTES have come."""
        return self._members is not None

    def unpack(self, data: bytes) -> bytes:
        if not self._known:
            self._first += data
            if len(self._first) < MAGIC_BYTES:
                return b""
            data, self._first = self._first, b""
            self._known = True
            if kind := detect(data):
                self._members = _Members(kind)
        return data if self._members is None else self._members.unpack(data)

    def finish(self) -> bytes:
        """What has been held back: all of an input shorter than MAGIC_BYTES."""
        if self._members is not None:
            self._members.finish()
        return self._first


def detect(first_bytes: bytes) -> str:
    """Its name ("gzip", "zstd", "xz", "bzip2"), or "" for none of them."""
    return next((name for name, magic in _MAGICS.items() if first_bytes.startswith(magic)), "")


class _Members:
    """Compressed streams one after the other, as such files may be; zeros may follow the last."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._current = _decompressor(kind)
        self._fresh = True  # between two streams
        self._ended_once = False

    def unpack(self, data: bytes) -> bytes:
        parts: list[bytes] = []
        while data:
            if self._fresh and not data.strip(b"\0") and self._ended_once:
                return b"".join(parts)
            try:
                parts.append(self._current.decompress(data))
            except Exception as error:  # each library has an error class of its own
                raise InvalidParameter(f"the {self._kind} data is damaged: {error}") from error
            self._fresh = False
            if not self._current.eof:
                break
            data = self._current.unused_data
            self._current = _decompressor(self._kind)
            self._fresh = self._ended_once = True
        return b"".join(parts)

    def finish(self) -> None:
        if not self._fresh or not self._ended_once:
            raise InvalidParameter(f"unexpected end of archive: the {self._kind} data is truncated")


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes) -> bytes: ...


def _decompressor(kind: str) -> _Decompressor:
    if kind == "gzip":
        from isal import isal_zlib

        made: _Decompressor = isal_zlib.decompressobj(wbits=31)
        return made
    if kind == "zstd":
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj()
    if kind == "xz":
        import lzma

        return lzma.LZMADecompressor()
    import bz2

    return bz2.BZ2Decompressor()
