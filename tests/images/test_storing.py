"""What import, load and pull have in common: unpacking whatever comes, and writing while receiving."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import AsyncIterator, Callable

import pytest
import trio
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from rootless.images.compression import PIECE_BYTES, Unpacker
from rootless.images.storing import BATCH_BYTES, write_ahead
from rootless.model.errors import InvalidParameter

PACKERS: list[Callable[[bytes], bytes]] = [
    gzip.compress,
    bz2.compress,
    lzma.compress,
    zstandard.compress,
    lambda data: gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :]),
    lambda data: zstandard.compress(data[: len(data) // 2]) + zstandard.compress(data[len(data) // 2 :]),
]


def unpacked(data: bytes, piece: int) -> bytes:
    came: list[bytes] = []
    unpacker = Unpacker(came.append)
    for at in range(0, len(data), piece):
        unpacker.unpack(data[at : at + piece])
    unpacker.finish()
    return b"".join(came)


@given(st.binary(max_size=500).map(lambda data: b"tar" + data), st.sampled_from(PACKERS), st.integers(1, 600))
def test_what_was_packed_comes_out_in_pieces_of_any_size(
    data: bytes, pack: Callable[[bytes], bytes], piece: int
) -> None:
    assert unpacked(pack(data), piece) == data


@given(st.binary(max_size=20).map(lambda data: b"t" + data), st.integers(1, 30))
def test_what_was_not_packed_comes_out_as_it_was(data: bytes, piece: int) -> None:
    assert unpacked(data, piece) == data


@pytest.mark.parametrize("pack", PACKERS)
def test_half_of_something_packed_is_an_error(pack: Callable[[bytes], bytes]) -> None:
    data = pack(bytes(range(256)) * 20)
    with pytest.raises(InvalidParameter, match=r"truncated|damaged"):
        unpacked(data[: len(data) // 2 - 1], 7)


@pytest.mark.parametrize("pack", PACKERS)
def test_what_comes_out_at_once_is_small_whatever_comes_in(pack: Callable[[bytes], bytes]) -> None:
    sizes: list[int] = []
    unpacker = Unpacker(lambda data: sizes.append(len(data)))
    unpacker.unpack(pack(bytes(50 << 20)))
    unpacker.finish()
    assert sum(sizes) == 50 << 20
    assert max(sizes) <= PIECE_BYTES


async def _pieces(sizes: list[int], error: Exception | None = None) -> AsyncIterator[bytes]:
    for number, size in enumerate(sizes):
        await trio.lowlevel.checkpoint()
        yield bytes([number % 256]) * size
    if error is not None:
        raise error


def test_all_that_comes_is_written_in_order() -> None:
    sizes = [1, 0, BATCH_BYTES - 1, 1, 3 * BATCH_BYTES, 7]
    written: list[bytes] = []
    trio.run(write_ahead, _pieces(sizes), written.append)
    assert b"".join(written) == b"".join(bytes([number]) * size for number, size in enumerate(sizes))


def test_either_side_s_error_is_raised_as_it_is() -> None:
    def refuse(data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        trio.run(write_ahead, _pieces([BATCH_BYTES] * 100), refuse)
    with pytest.raises(InvalidParameter, match="broke off"):
        trio.run(write_ahead, _pieces([BATCH_BYTES], InvalidParameter("broke off")), lambda data: None)
