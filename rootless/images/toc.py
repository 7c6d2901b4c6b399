"""Tables of contents of layers that can be read in parts: zstd:chunked and eStargz. Bytes -> members and spans. Pure,
but for the libraries that unpack.

Sources: containers/storage, pkg/chunked (zstd:chunked); containerd/stargz-snapshotter, docs/estargz.md."""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import json
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fuse_overlay import Entry, LayerError, normalise
from rootless.model import clock
from rootless.model.errors import InvalidParameter

MAX_TOC_BYTES = 256 << 20
MAX_CHUNK_BYTES = 64 << 20
SPAN_BYTES = 4 << 20
FOOTER_BYTES = 51
ESTARGZ_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
_CHUNKED = ("io.github.containers.zstd-chunked", "io.containers.zstd-chunked")
_TYPES = {
    "dir": stat.S_IFDIR,
    "reg": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "hardlink": stat.S_IFREG,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
}


@dataclass(frozen=True)
class Place:
    """Where a table lies in its blob; `digest` is of it as it lies there (zstd) or unpacked (gzip)."""

    form: str
    offset: int
    length: int
    digest: str
    unpacked_bytes: int = 0


@dataclass(frozen=True)
class Chunk:
    """`begin` … `end` in the blob unpack to `size` bytes of that digest."""

    begin: int
    end: int
    size: int
    digest: str


@dataclass
class Span:
    """What is fetched at once: chunks that follow each other in the blob and in the contents."""

    begin: int
    end: int
    chunks: list[Chunk] = field(default_factory=list)


@dataclass
class Contents:
    """Of a layer. Members' offsets are those in the contents that the spans make up."""

    form: str
    members: list[Entry]
    spans: list[Span]


def chunked_place(annotations: Mapping[str, Any]) -> Place | None:
    """Of zstd:chunked, as the layer's descriptor says; None where it says nothing that can be used."""
    for name in _CHUNKED:
        numbers = str(annotations.get(f"{name}.manifest-position") or "").split(":")
        digest = str(annotations.get(f"{name}.manifest-checksum") or "")
        if len(numbers) == 4 and all(number.isdecimal() for number in numbers) and digest:
            offset, length, unpacked, kind = map(int, numbers)
            if kind == 1 and 0 < length <= MAX_TOC_BYTES and 0 < unpacked <= MAX_TOC_BYTES:
                return Place("zstd", offset, length, digest, unpacked)
    return None


def estargz_place(footer: bytes, blob_bytes: int, digest: str) -> Place | None:
    """Of eStargz, from the last FOOTER_BYTES of the blob: an empty gzip member whose extra field says where."""
    if len(footer) != FOOTER_BYTES or footer[:4] != b"\x1f\x8b\x08\x04" or footer[12:14] != b"SG":
        return None
    field_ = footer[16:38]
    if field_[16:] != b"STARGZ":
        return None
    try:
        offset = int(field_[:16], 16)
    except ValueError:
        return None
    length = blob_bytes - FOOTER_BYTES - offset
    return Place("gzip", offset, length, digest) if 0 < length <= MAX_TOC_BYTES else None


def parse(place: Place, data: bytes, blob_bytes: int) -> Contents:
    """`data` is what lies at that place. Raises InvalidParameter where it is not what its digest says, or damaged."""
    text = _unpacked(place, data)
    try:
        rows = json.loads(text)["entries"]
        return _contents(place.form, rows, place.offset)
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error, LayerError) as error:
        raise InvalidParameter(f"the layer's table of contents is damaged: {error!r}") from None


def _unpacked(place: Place, data: bytes) -> bytes:
    if place.form == "zstd":
        import zstandard

        _check(data, place.digest)
        try:
            return zstandard.ZstdDecompressor().decompress(data, max_output_size=place.unpacked_bytes)
        except zstandard.ZstdError as error:
            raise InvalidParameter(f"the layer's table of contents is damaged: {error}") from None
    import tarfile
    import zlib
    from io import BytesIO

    try:
        tar = zlib.decompressobj(31).decompress(data, MAX_TOC_BYTES)
        with tarfile.open(fileobj=BytesIO(tar)) as archive:
            member = archive.extractfile("stargz.index.json")
            text = member.read() if member is not None else b""
    except (zlib.error, tarfile.TarError, KeyError) as error:
        raise InvalidParameter(f"the layer's table of contents is damaged: {error}") from None
    _check(text, place.digest)
    return text


def _check(data: bytes, digest: str) -> None:
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        raise InvalidParameter("the layer's table of contents is not the one that its manifest names")


def _contents(form: str, rows: Sequence[Mapping[str, Any]], end: int) -> Contents:
    made = Contents(form, [], [])
    offsets = sorted({int(row["offset"]) for row in rows if row.get("offset")} | {end})
    following = dict(itertools.pairwise(offsets))
    at = number = 0
    while number < len(rows):
        row = rows[number]
        number += 1
        size = int(row.get("size") or 0) if row["type"] == "reg" else 0
        made.members.append(_member(row, size, at))
        pieces = [row] if size else []
        while number < len(rows) and rows[number]["type"] == "chunk":
            if not size:
                raise ValueError("a chunk without a file")
            pieces.append(rows[number])
            number += 1
        if size:
            _add_file(made, pieces, size, at, following)
            at += size
    return made


def _add_file(
    made: Contents, pieces: Sequence[Mapping[str, Any]], size: int, at: int, following: Mapping[int, int]
) -> None:
    span = None
    inside = 0
    for number, piece in enumerate(pieces):
        length = int(piece.get("chunkSize") or 0) or size - inside
        begin = int(piece["offset"])
        if number + 1 < len(pieces):
            end = int(pieces[number + 1]["offset"])
        else:
            end = int(pieces[0].get("endOffset") or 0) or following[begin]
        digest = str(piece.get("chunkDigest") or (piece.get("digest") if len(pieces) == 1 else ""))
        if not digest.startswith("sha256:") or int(piece.get("chunkOffset") or 0) != inside:
            raise ValueError("a chunk without digest, or out of order")
        if not 0 < length <= min(MAX_CHUNK_BYTES, size - inside) or not 0 < end - begin <= 2 * length + (64 << 10):
            raise ValueError("a chunk of impossible size")
        if span is None or span.end - span.begin >= SPAN_BYTES:
            span = Span(at + inside, at + inside)
            made.spans.append(span)
        span.chunks.append(Chunk(begin, end, length, digest))
        inside += length
        span.end = at + inside
    if inside != size:
        raise ValueError("chunks that do not make up their file")


def _member(row: Mapping[str, Any], size: int, at: int) -> Entry:
    kind = str(row["type"])  # a chunk is none
    link = str(row.get("linkName") or "").encode("utf-8", "surrogateescape")
    major, minor = int(row.get("devMajor") or 0) & 0xFFF, int(row.get("devMinor") or 0) & 0xFFFFF
    xattrs = row.get("xattrs") or {}
    return Entry(
        path=normalise(str(row["name"]).encode("utf-8", "surrogateescape")),
        mode=_TYPES[kind] | (int(row.get("mode") or 0) & 0o7777),
        uid=int(row.get("uid") or 0) & 0xFFFFFFFF,
        gid=int(row.get("gid") or 0) & 0xFFFFFFFF,
        size=size,
        mtime_ns=clock.nanoseconds(row["modtime"]) if row.get("modtime") else 0,
        rdev=(minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12),
        data_offset=at,
        link=normalise(link, "hard link") if kind == "hardlink" else link,
        hard_link=kind == "hardlink",
        xattrs={name.encode(): base64.b64decode(value) for name, value in xattrs.items()},
    )


def unpack_span(form: str, span: Span, data: bytes) -> bytes:
    """`data` is the blob from the span's first chunk to its last. Raises InvalidParameter where a chunk is not what its
    digest says."""
    start = span.chunks[0].begin
    return b"".join(_chunk(form, chunk, data[chunk.begin - start : chunk.end - start]) for chunk in span.chunks)


def _chunk(form: str, chunk: Chunk, data: bytes) -> bytes:
    try:
        if form == "zstd":
            import zstandard

            with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
                made = reader.read(chunk.size)
        else:
            from isal import isal_zlib

            made = isal_zlib.decompressobj(31).decompress(data, chunk.size)
    except Exception as error:  # each library has errors of its own
        raise InvalidParameter(f"a chunk of the layer is damaged: {error}") from None
    if len(made) != chunk.size or f"sha256:{hashlib.sha256(made).hexdigest()}" != chunk.digest:
        raise InvalidParameter(f"a chunk of the layer is not what its digest says: {chunk.digest}")
    return made
