"""Layers that can be read in parts, made from a tar: zstd:chunked and eStargz."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from typing import Any

import zstandard

from tests.images.registries import sha256

CHUNK_BYTES = 100_000
_TYPES = {
    tarfile.REGTYPE: "reg",
    tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "symlink",
    tarfile.LNKTYPE: "hardlink",
    tarfile.CHRTYPE: "char",
}


def _parts(tar: bytes, pack: Callable[[bytes], bytes]) -> tuple[bytearray, list[dict[str, Any]]]:
    """(packed so that each chunk of a file is a stream of its own, the rows of the table)."""
    out, rows, at = bytearray(), [], 0
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            row: dict[str, Any] = {
                "type": _TYPES[member.type],
                "name": member.name,
                "mode": member.mode,
                "uid": member.uid,
                "gid": member.gid,
                "modtime": "2020-01-02T03:04:05Z",
            }
            if member.linkname:
                row["linkName"] = member.linkname
            rows.append(row)
            if not member.isreg() or not member.size:
                continue
            out += pack(tar[at : member.offset_data])
            content = tar[member.offset_data : member.offset_data + member.size]
            row |= {"size": member.size, "digest": sha256(content)}
            for start in range(0, member.size, CHUNK_BYTES):
                piece = content[start : start + CHUNK_BYTES]
                chunk = row if not start else {"type": "chunk", "name": member.name, "chunkOffset": start}
                if start:
                    rows.append(chunk)
                chunk |= {"offset": len(out), "chunkSize": len(piece), "chunkDigest": sha256(piece)}
                out += pack(piece)
            row["endOffset"] = len(out)
            at = member.offset_data + member.size
    out += pack(tar[at:])
    return out, rows


def zstd_chunked(tar: bytes) -> tuple[bytes, dict[str, str]]:
    """(layer, annotations of its descriptor)."""
    out, rows = _parts(tar, zstandard.compress)
    text = json.dumps({"version": 1, "entries": rows}).encode()
    table = zstandard.compress(text)
    position = f"{len(out) + 8}:{len(table)}:{len(text)}:1"
    out += b"\x50\x2a\x4d\x18" + len(table).to_bytes(4, "little") + table  # a frame that readers skip
    name = "io.github.containers.zstd-chunked"
    return bytes(out), {f"{name}.manifest-position": position, f"{name}.manifest-checksum": sha256(table)}


def estargz(tar: bytes) -> tuple[bytes, dict[str, str], bytes]:
    """(layer, annotations of its descriptor, the tar that the layer unpacks to: with the table in it)."""
    out, rows = _parts(tar.rstrip(b"\0") + bytes(-len(tar.rstrip(b"\0")) % 512), gzip.compress)
    for row in rows:
        row.pop("endOffset", None)
    text = json.dumps({"version": 1, "entries": rows}).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("stargz.index.json")
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
    extra = b"SG" + (22).to_bytes(2, "little") + b"%016x" % len(out) + b"STARGZ"
    footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + len(extra).to_bytes(2, "little") + extra
    footer += b"\x01\0\0\xff\xff" + bytes(8)
    out += gzip.compress(buffer.getvalue()) + footer
    plain = gzip.decompress(bytes(out))
    digest = f"sha256:{hashlib.sha256(text).hexdigest()}"
    return bytes(out), {"containerd.io/snapshot/stargz/toc.digest": digest}, plain
