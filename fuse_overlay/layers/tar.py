"""A tar stream, fed in pieces of any size, as entries: ustar, PAX, GNU long names and sparse files, base-256. No I/O.

Sources: POSIX.1-2017 pax(1) "ustar Interchange Format" and "pax Interchange Format", GNU tar manual "Basic Tar Format",
tar(5) of libarchive for what Solaris and star write.
The archive is hostile: nothing in it is trusted before it was checked, and no length in it is ever allocated unseen.
"""

from __future__ import annotations

import stat
import zlib
from collections.abc import Iterator

from fuse_overlay.errors import LayerError
from fuse_overlay.layers import sparse
from fuse_overlay.layers.entry import NO_XATTRS, Entry, normalise, shown

BLOCK = 512
MAX_EXTENSION_BYTES = 16 << 20  # a PAX header or a long name; real ones are a few kilobytes
MAX_OFFSET = 1 << 62
_ZERO = bytes(BLOCK)
_TYPES = {
    b"0": stat.S_IFREG,
    b"\0": stat.S_IFREG,
    b"7": stat.S_IFREG,
    b"1": stat.S_IFREG,
    b"2": stat.S_IFLNK,
    b"3": stat.S_IFCHR,
    b"4": stat.S_IFBLK,
    b"5": stat.S_IFDIR,
    b"6": stat.S_IFIFO,
    b"S": stat.S_IFREG,  # GNU sparse
    b"D": stat.S_IFDIR,  # GNU incremental: its content is a list of names
}
_EXTENSIONS = {b"x": b"x", b"X": b"x", b"g": b"g", b"L": b"L", b"K": b"K"}  # X: Solaris
_SPARSE_HEADER, _SPARSE_LINES = b"S", b"M"  # not types of extensions: maps that are being collected
_PAX_XATTR, _LIBARCHIVE_XATTR = b"SCHILY.xattr.", b"LIBARCHIVE.xattr."
_SPARSE_PAIR = b"GNU.sparse.offset", b"GNU.sparse.numbytes"
_ENDS = b"\0 "  # of a number's field
MAX_LINK_BYTES = 4095  # PATH_MAX, include/uapi/linux/limits.h


class TarParser:
    """feed() bytes, take the entries; close() at the end. Both raise LayerError.

    Content is skipped, not kept: an entry says where it lies."""

    def __init__(self) -> None:
        self._buffer = bytearray()  # an incomplete header, or the extension being read
        self._offset = 0  # of the first byte of _buffer in the stream
        self._skip = 0  # bytes of content still to pass over
        self._extension = b""  # the type of the extension whose body is being collected
        self._extension_size = 0
        self._global: dict[bytes, bytes] = {}
        self._local: dict[bytes, bytes] = {}
        self._gnu: dict[bytes, bytes] = {}
        self._sparse: list[int] = []  # numbers of the map that is being collected
        self._waiting: tuple[bytes, bytes, int, int] = b"", b"", 0, 0  # the member it belongs to
        self._lines = bytearray()  # the map of format 1.0
        self._ended = False
        self._members = 0

    def feed(self, data: bytes | memoryview) -> Iterator[Entry]:
        """Entries whose headers are complete now. Must be exhausted before the next call."""
        view = memoryview(data)
        while view:
            if self._ended:  # what follows the end is padding, whatever it is
                self._offset += len(view)
                return
            if self._skip:
                passed = min(self._skip, len(view))
                self._skip -= passed
                self._offset += passed
                view = view[passed:]
                continue
            wanted = self._extension_size if self._extension else BLOCK
            if not self._buffer and len(view) >= wanted:
                piece = bytes(view[:wanted])
                view = view[wanted:]
            else:
                take = min(wanted - len(self._buffer), len(view))
                self._buffer += view[:take]
                view = view[take:]
                if len(self._buffer) < wanted:
                    return
                piece = bytes(self._buffer)
                self._buffer.clear()
            self._offset += len(piece)
            entry = self._take_extension(piece) if self._extension else self._header(piece)
            if entry is not None:
                yield entry

    def close(self) -> None:
        """The stream has ended: refuse one that ends in the middle of something."""
        if self._skip or self._buffer or self._extension or self._local or self._gnu:
            raise LayerError(f"unexpected end of archive at byte {self._offset + len(self._buffer)}: it is truncated")
        if not self._members and not self._ended:
            raise LayerError("unexpected end of archive: it is empty")

    # ------------------------------------------------------------------------------------------------ headers
    def _header(self, block: bytes) -> Entry | None:
        at = self._offset - BLOCK
        if block == _ZERO:
            self._ended = True
            return None
        _check_sum(block, at)
        kind = block[156:157]
        size = _number(block[124:136], at)
        if kind in _EXTENSIONS:
            if not 0 <= size <= MAX_EXTENSION_BYTES:
                raise LayerError(f"extension header of {size} bytes at byte {at}")
            self._extension = _EXTENSIONS[kind]
            self._extension_size = -(-size // BLOCK) * BLOCK
            self._extension_length = size
            if not size:
                self._extension = b""
            return None
        self._members += 1
        if kind == b"S":
            self._sparse = []
            fields, more, _ = sparse.from_header(block)
            self._sparse += [_number(field, at) for field in fields]
            if more:
                self._collect(_SPARSE_HEADER, block, kind, size, at)
                return None
        elif self._local.get(b"GNU.sparse.major") == b"1":
            self._lines.clear()
            self._collect(_SPARSE_LINES, block, kind, size, at)
            return None
        return self._entry(block, kind, size, at)

    def _collect(self, what: bytes, block: bytes, kind: bytes, size: int, at: int) -> None:
        """The map of a sparse member begins in the next block."""
        self._extension, self._extension_size, self._waiting = what, BLOCK, (block, kind, size, at)

    def _take_extension(self, body: bytes) -> Entry | None:
        kind, self._extension = self._extension, b""
        if kind == _SPARSE_HEADER:
            fields, more = sparse.from_extension(body)
            self._sparse += [_number(field, self._offset) for field in fields]
            if len(self._sparse) > 2 * sparse.MAX_PIECES:
                raise LayerError(f"a sparse member of too many pieces before byte {self._offset}")
            if more:
                self._extension = kind
                return None
            return self._entry(*self._waiting)
        if kind == _SPARSE_LINES:
            self._lines += body
            if not sparse.complete(self._lines):
                self._extension = kind
                return None
            self._sparse = sparse.from_lines(self._lines)
            return self._entry(*self._waiting)
        body = body[: self._extension_length]
        if kind == b"x":
            records = _pax(body, self._offset)
            self._local.update(records)
            # format 0.0: the numbers of its map come as records of the same two names
            self._sparse = [_decimal(value, self._offset) for key, value in records if key in _SPARSE_PAIR]
        elif kind == b"g":
            self._global.update(_pax(body, self._offset))
        else:
            self._gnu[kind] = body.rstrip(b"\0")
        return None

    def _entry(self, block: bytes, kind: bytes, size: int, at: int) -> Entry | None:
        pax = {**self._global, **self._local} if self._global or self._local else {}
        gnu, self._gnu, self._local = self._gnu, {}, {}
        if b"size" in pax:
            size = _decimal(pax[b"size"], at)
        if kind in (b"1", b"2", b"3", b"4", b"5", b"6"):
            content = size if kind == b"1" and pax.get(b"size") else 0
            size = content
        if not 0 <= size <= MAX_OFFSET:
            raise LayerError(f"member of {size} bytes at byte {at}")
        size -= len(self._lines)  # format 1.0: the map is the beginning of the content
        self._lines.clear()
        if size < 0:
            raise LayerError(f"corrupt archive: a sparse member at byte {at} is shorter than its map")
        self._skip = -(-size // BLOCK) * BLOCK
        pieces = None
        if pax or kind == b"S":
            pieces, size = self._pieces(block, kind, pax, size, at)
        name = pax.get(b"GNU.sparse.name") or pax.get(b"path") or gnu.get(b"L") or _name(block)
        link = pax.get(b"linkpath") or gnu.get(b"K") or _text(block[157:257])
        file_type = _TYPES.get(kind)
        if file_type is None:
            if b"A" <= kind <= b"Z":  # a vendor's extension of no meaning to a tree (GNU volume labels …)
                return None
            file_type = stat.S_IFREG  # POSIX: unknown types are regular files
        if kind in (b"0", b"\0") and name.endswith(b"/"):
            file_type = stat.S_IFDIR  # as tar before POSIX wrote directories
        path = normalise(name)
        if kind == b"2" and not 0 < len(link) <= MAX_LINK_BYTES:
            raise LayerError(f"symbolic link with a text of {len(link)} bytes at byte {at}: {shown(path)}")
        if b"\0" in link and kind == b"2":
            raise LayerError(f"symbolic link with a NUL byte in its text at byte {at}: {shown(path)}")
        if not path and file_type != stat.S_IFDIR:
            raise LayerError(f"member without a name at byte {at}: {shown(name)}")
        return Entry(
            path=path,
            mode=file_type | (_number(block[100:108], at) & 0o7777),
            uid=_id(pax.get(b"uid"), block[108:116], at),
            gid=_id(pax.get(b"gid"), block[116:124], at),
            size=0 if file_type == stat.S_IFDIR else size,
            mtime_ns=_time(pax[b"mtime"], at) if b"mtime" in pax else _within(_number(block[136:148], at) * 10**9),
            rdev=_device(block, at) if kind in (b"3", b"4") else 0,
            data_offset=self._offset,
            link=normalise(link, "hard link") if kind == b"1" else link if kind == b"2" else b"",
            hard_link=kind == b"1",
            xattrs=_xattrs(pax) if pax else NO_XATTRS,
            pieces=pieces,
        )

    def _pieces(
        self, block: bytes, kind: bytes, pax: dict[bytes, bytes], stored: int, at: int
    ) -> tuple[sparse.Pieces | None, int]:
        """(The map of a sparse member or None, the file's size)."""
        numbers, self._sparse = self._sparse, []
        if kind == b"S":
            size = _number(sparse.from_header(block)[2], at)
        elif b"GNU.sparse.map" in pax:  # format 0.1
            size = _decimal(pax.get(b"GNU.sparse.size", b""), at)
            numbers = [_decimal(text, at) for text in pax[b"GNU.sparse.map"].split(b",") if text]
        elif (whole := pax.get(b"GNU.sparse.realsize", pax.get(b"GNU.sparse.size"))) is not None:
            size = _decimal(whole, at)
        else:
            return None, stored
        if not 0 <= size <= MAX_OFFSET:
            raise LayerError(f"member of {size} bytes at byte {at}")
        return sparse.checked(numbers, size, stored, at), size


def _xattrs(pax: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Extended attributes as star and GNU tar write them, and as libarchive does (name URL-encoded, value base64)."""
    found = {key[len(_PAX_XATTR) :]: value for key, value in pax.items() if key.startswith(_PAX_XATTR)}
    for key, value in pax.items():
        if key.startswith(_LIBARCHIVE_XATTR):
            import base64
            import urllib.parse  # slow to import, and most archives have none

            name = urllib.parse.unquote_to_bytes(key[len(_LIBARCHIVE_XATTR) :])
            try:
                found.setdefault(name, base64.b64decode(value + b"=" * (-len(value) % 4)))
            except ValueError:
                raise LayerError(f"corrupt archive: extended attribute {shown(name)} is not base64") from None
    if any(not 0 < len(name) <= 255 or b"\0" in name or len(value) > 65536 for name, value in found.items()):
        raise LayerError("an extended attribute's name is longer than 255 bytes, or its value longer than 65536")
    return found


def _check_sum(block: bytes, at: int) -> None:
    stored = _number(block[148:156], at)
    # sums of the bytes, the sum's own field taken as blanks; some old programs summed signed bytes
    # the lower half of Adler-32 (RFC 1950) is the sum and 1, modulo 65,521, which 512 bytes of ASCII do not reach
    whole = (zlib.adler32(block) & 0xFFFF) - 1 if block.isascii() else sum(block)
    unsigned = whole - sum(block[148:156]) + 8 * 32
    if stored != unsigned:
        signed = unsigned - 256 * sum(1 for i, byte in enumerate(block) if byte > 127 and not 148 <= i < 156)
        if stored != signed:
            what = "not a tar archive" if at == 0 else f"corrupt archive: wrong header checksum at byte {at}"
            raise LayerError(what)


def _number(field: bytes, at: int) -> int:
    """Octal digits, or base 256 with the high bit set (two's complement)."""
    if field[-1] in _ENDS:
        try:
            return int(field[:-1], 8)
        except ValueError:
            pass  # not as most are
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    digits = field.split(b"\0", 1)[0].strip()
    try:
        return int(digits, 8) if digits else 0
    except ValueError as error:
        raise LayerError("not a tar archive" if at == 0 else f"corrupt archive: bad number at byte {at}") from error


def _decimal(text: bytes, at: int) -> int:
    if not text.isdigit() or len(text) > 20:
        raise LayerError(f"corrupt archive: bad PAX number {shown(text)} before byte {at}")
    return int(text)


def _id(pax: bytes | None, field: bytes, at: int) -> int:
    value = _decimal(pax, at) if pax is not None else _number(field, at)
    return value if 0 <= value < 2**32 - 1 else 65534


def _time(text: bytes, at: int) -> int:
    """PAX seconds with a fraction, as nanoseconds. Exact: no float."""
    sign = -1 if text.startswith(b"-") else 1
    whole, _, fraction = text.lstrip(b"-").partition(b".")
    if not (whole or b"0").isdigit() or (fraction and not fraction.isdigit()) or len(text) > 64:
        raise LayerError(f"corrupt archive: bad PAX time {shown(text)} before byte {at}")
    return _within(sign * (int(whole or b"0") * 10**9 + int(fraction[:9].ljust(9, b"0"))))


def _within(nanoseconds: int) -> int:
    """A time that an index can hold: of the years 1678 to 2262."""
    return max(-(2**63) + 1, min(2**63 - 1, nanoseconds))


def _device(block: bytes, at: int) -> int:
    """Major and minor as the kernel's 32-bit encoding (include/linux/kdev_t.h, new_encode_dev)."""
    major, minor = _number(block[329:337], at) & 0xFFF, _number(block[337:345], at) & 0xFFFFF
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _name(block: bytes) -> bytes:
    name = _text(block[0:100])
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        return prefix + b"/" + name
    return name


def _pax(body: bytes, at: int) -> list[tuple[bytes, bytes]]:
    """Records "LENGTH KEY=VALUE\\n"; the length counts itself."""
    records: list[tuple[bytes, bytes]] = []
    position = 0
    while position < len(body):
        blank = body.find(b" ", position, position + 20)
        digits = body[position:blank] if blank > 0 else b""
        length = int(digits) if digits.isdigit() else 0
        record = body[position : position + length]
        key, separator, value = record[len(digits) + 1 : -1].partition(b"=")
        if length <= len(digits) + 2 or len(record) != length or record[-1:] != b"\n" or not separator:
            raise LayerError(f"corrupt archive: bad PAX record before byte {at}")
        records.append((key, value))
        position += length
    return records
