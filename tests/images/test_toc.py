"""Tables of contents: all contents of a layer come out of its parts; a table that lies is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import zstandard

from rootless.images import toc
from rootless.model.errors import InvalidParameter
from tests.fuse_overlay.test_layers import D, F, archive
from tests.images.chunked import estargz, zstd_chunked
from tests.images.registries import sha256

BIG = bytes(range(256)) * 3000
TAR = archive(("etc", D, b"", ""), ("etc/motd", F, b"hello\n", ""), ("big", F, BIG, ""), ("empty", F, b"", ""))


def zstd_place(annotations: dict[str, str]) -> toc.Place:
    place = toc.chunked_place(annotations)
    assert place is not None
    return place


def contents_of(contents: toc.Contents, blob: bytes) -> dict[bytes, bytes]:
    whole = b"".join(
        toc.unpack_span(contents.form, span, blob[span.chunks[0].begin : span.chunks[-1].end])
        for span in contents.spans
    )
    return {member.path: whole[member.data_offset : member.data_offset + member.size] for member in contents.members}


def test_zstd_chunked() -> None:
    blob, annotations = zstd_chunked(TAR)
    place = zstd_place(annotations)
    contents = toc.parse(place, blob[place.offset : place.offset + place.length], len(blob))
    found = contents_of(contents, blob)
    assert found == {b"etc": b"", b"etc/motd": b"hello\n", b"big": BIG, b"empty": b""}
    assert [(span.begin, span.end) for span in contents.spans] == [(0, 6), (6, 6 + len(BIG))]


def test_estargz() -> None:
    blob, annotations, _ = estargz(TAR)
    place = toc.estargz_place(blob[-toc.FOOTER_BYTES :], len(blob), annotations[toc.ESTARGZ_DIGEST])
    assert place is not None
    contents = toc.parse(place, blob[place.offset : place.offset + place.length], len(blob))
    assert contents_of(contents, blob)[b"big"] == BIG


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 10**12},
        {"chunkSize": 10**12},
        {"chunkOffset": 7},
        {"chunkDigest": "md5:0"},
        {"size": 5},
        {"size": 7},
        {"name": "../outside"},
        {"type": "socket"},
        {"type": "chunk"},
        {"endOffset": 1},
        {"modtime": "yesterday"},
    ],
)
def test_a_table_that_lies_is_refused(change: dict[str, Any]) -> None:
    blob, annotations = zstd_chunked(TAR)
    place = zstd_place(annotations)
    table = json.loads(zstandard.decompress(blob[place.offset : place.offset + place.length]))
    table["entries"][1].update(change)
    text = json.dumps(table).encode()
    packed = zstandard.compress(text)
    with pytest.raises(InvalidParameter):
        toc.parse(replace(place, digest=sha256(packed), unpacked_bytes=len(text)), packed, len(blob))


def test_what_the_manifest_does_not_name_is_refused() -> None:
    blob, annotations = zstd_chunked(TAR)
    place = zstd_place(annotations)
    data = bytearray(blob[place.offset : place.offset + place.length])
    data[10] ^= 1
    with pytest.raises(InvalidParameter, match="not the one that its manifest names"):
        toc.parse(place, bytes(data), len(blob))


def test_a_damaged_chunk_is_refused() -> None:
    blob, annotations = zstd_chunked(TAR)
    place = zstd_place(annotations)
    contents = toc.parse(place, blob[place.offset : place.offset + place.length], len(blob))
    span = contents.spans[1]
    data = bytearray(blob[span.chunks[0].begin : span.chunks[-1].end])
    data[len(data) // 2] ^= 1
    with pytest.raises(InvalidParameter, match="chunk of the layer"):
        toc.unpack_span(contents.form, span, bytes(data))
