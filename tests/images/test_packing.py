"""Packing: what comes out is gzip of what went in, and the same whenever and by however many threads it is made."""

from __future__ import annotations

import gzip
import io
import os
import random
import zlib
from pathlib import Path

import pytest

from rootless.images.packing import BLOCK_BYTES, pack
from tests.images.registries import sha256


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 5 * BLOCK_BYTES + 77])
def test_the_same_bytes_whatever_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    words = random.Random(size).randbytes(997) * (size // 997 + 1)
    (tmp_path / "tar").write_bytes(words[:size])
    made = []
    for threads in (1, 2, 7):
        monkeypatch.setattr(os, "cpu_count", lambda threads=threads: threads)
        out, moved = io.BytesIO(), []
        digest, length = pack(tmp_path / "tar", out, moved.append)
        assert (digest, length) == (sha256(out.getvalue()), len(out.getvalue()))
        assert moved[-1] == size
        made.append(out.getvalue())
    assert gzip.decompress(made[0]) == words[:size]
    assert zlib.decompressobj(31).decompress(made[0]) == words[:size]
    assert made[0] == made[1] == made[2]
