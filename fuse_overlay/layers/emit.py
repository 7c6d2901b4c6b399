"""Entries as a tar stream: ustar where a member fits, PAX where it does not. The counterpart of `tar`.

Sources: as there. Times are whole seconds, as docker writes layers, so that the same files make the same bytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from fuse_overlay.layers.entry import Entry
from fuse_overlay.layers.tar import BLOCK

END_OF_ARCHIVE = bytes(2 * BLOCK)
BUFFER_BYTES = 256 << 10
_KINDS = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
_MAX_ID = 0o7777777
_MAX_NUMBER = 0o77777777777


def header(entry: Entry) -> bytes:
    """The blocks before a member's content. Raises KeyError for a socket, which a tar cannot hold."""
    kind = b"1" if entry.hard_link else _KINDS[stat.S_IFMT(entry.mode)]
    name = (entry.path or b".") + (b"/" if entry.is_directory else b"")
    seconds = entry.mtime_ns // 10**9
    size = entry.size if kind == b"0" else 0
    records: list[tuple[bytes, bytes]] = []
    prefix, short = _split(name)
    if short is None:
        records.append((b"path", name))
        prefix, short = b"", name[:100]
    if len(entry.link) > 100:
        records.append((b"linkpath", entry.link))
    for key, value, limit in (
        (b"uid", entry.uid, _MAX_ID),
        (b"gid", entry.gid, _MAX_ID),
        (b"size", size, _MAX_NUMBER),
        (b"mtime", seconds, _MAX_NUMBER),
    ):
        if not 0 <= value <= limit:
            records.append((key, b"%d" % value))
    records += [(b"SCHILY.xattr." + key, value) for key, value in sorted(entry.xattrs.items())]
    major, minor = _device(entry.rdev) if kind in (b"3", b"4") else (0, 0)
    block = _block(
        short,
        stat.S_IMODE(entry.mode),
        _fitting(entry.uid, _MAX_ID),
        _fitting(entry.gid, _MAX_ID),
        _fitting(size, _MAX_NUMBER),
        _fitting(seconds, _MAX_NUMBER),
        kind,
        entry.link[:100],
        major,
        minor,
        prefix,
    )
    return _extension(records) + block if records else block


def _block(
    name: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    seconds: int,
    kind: bytes,
    link: bytes,
    major: int,
    minor: int,
    prefix: bytes,
) -> bytes:
    head = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, uid, gid, size, seconds)
    tail = b"%s%sustar\x0000%s%07o\0%07o\0%s" % (
        kind,
        link.ljust(100, b"\0"),
        bytes(64),
        major,
        minor,
        prefix.ljust(155, b"\0"),
    )
    tail = tail.ljust(BLOCK - 156, b"\0")
    return b"%s%06o\0 %s" % (head, sum(head) + sum(tail) + 8 * 32, tail)


def _extension(records: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(_record(key, value) for key, value in records)
    return _block(b"././@PaxHeader", 0o644, 0, 0, len(body), 0, b"x", b"", 0, 0, b"") + body + padding(len(body))


def _record(key: bytes, value: bytes) -> bytes:
    """ "LENGTH KEY=VALUE\\n"; the length counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def _fitting(value: int, limit: int) -> int:
    return value if 0 <= value <= limit else 0


def _split(name: bytes) -> tuple[bytes, bytes | None]:
    """(prefix, name) of the ustar header; no name where it takes a PAX record."""
    if len(name) <= 100:
        return b"", name
    at = name.rfind(b"/", 0, 156)
    if at > 0 and 0 < len(name) - at - 1 <= 100:
        return name[:at], name[at + 1 :]
    return b"", None


def _device(rdev: int) -> tuple[int, int]:
    """The kernel's 32-bit encoding (include/linux/kdev_t.h, new_decode_dev) as (major, minor)."""
    return (rdev >> 8) & 0xFFF, (rdev & 0xFF) | ((rdev >> 12) & 0xFFF00)


class TarWriter:
    """Members to a file, pipe or socket. Raises OSError."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = bytearray()

    def add(self, entry: Entry, source: int = -1, offset: int = 0) -> None:
        """A member; the content of a regular file is `entry.size` bytes of `source` from `offset`. A file that has
        become shorter meanwhile is filled up with zeros."""
        self._buffer += header(entry)
        if source >= 0 and entry.size:
            if entry.size <= BUFFER_BYTES:
                data = os.pread(source, entry.size, offset)
                self._buffer += data
                self._buffer += bytes(entry.size - len(data))
            else:
                self._large(entry.size, source, offset)
            self._buffer += padding(entry.size)
        if len(self._buffer) >= BUFFER_BYTES:
            self._flush()

    def add_pieces(self, entry: Entry, source: int, pieces: Iterable[tuple[int, int]]) -> None:
        """A regular file whose content is `pieces` of `source`, (offset, bytes) each; an offset of -1 is a hole."""
        self._buffer += header(entry)
        for offset, size in pieces:
            if offset >= 0:
                self._large(size, source, offset)
            else:
                self._zeros(size)
        self._buffer += padding(entry.size)

    def add_bytes(self, entry: Entry, content: bytes) -> None:
        """A regular file whose content is at hand; the entry's size is that."""
        entry.size = len(content)
        self._buffer += header(entry) + content + padding(len(content))

    def end(self) -> None:
        self._buffer += END_OF_ARCHIVE
        self._flush()

    def _large(self, size: int, source: int, offset: int) -> None:
        self._flush()
        end = offset + size
        while offset < end:
            sent = os.sendfile(self._fd, source, offset, min(end - offset, 1 << 30))
            if not sent:
                break
            offset += sent
        self._zeros(end - offset)

    def _zeros(self, size: int) -> None:
        while size:
            self._buffer += bytes(min(size, BUFFER_BYTES))
            size -= min(size, BUFFER_BYTES)
            self._flush()

    def _flush(self) -> None:
        with memoryview(self._buffer) as view:
            at = 0
            while at < len(view):
                at += os.write(self._fd, view[at:])
        self._buffer.clear()
