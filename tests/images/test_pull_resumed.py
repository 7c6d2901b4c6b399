"""What a pull that was given up, cancelled or failed leaves for the next one."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import random
import threading
from pathlib import Path

import pytest
import trio

from rootless.images import partial, pulling
from rootless.images.checking import Check
from rootless.images.images import Images
from rootless.model import reference
from rootless.model.errors import InvalidParameter, RootlessError
from tests.images.faulty import FaultyRegistry, faulty_registry
from tests.images.registries import sha256, tar_of
from tests.images.test_import import store
from tests.images.test_pull_faults import BIG, GZIP, PLAIN, QUICK, SMALL, ZSTD, assert_whole, big, pull


@pytest.mark.parametrize("kind", [GZIP, ZSTD, PLAIN])
def test_a_pull_that_was_given_up_is_taken_up_by_the_next(tmp_path: Path, kind: str) -> None:
    with faulty_registry() as server:
        name, packed = big(server, kind)
        server.faults.cut_after = [len(packed) // 2] + [0] * 20
        images = store(tmp_path)
        with pytest.raises(RootlessError, match=r"cannot reach the registry 127\.0\.0\.1:\d+: "):
            pull(images, name)
        assert images.layout.entries() == []
        server.faults.cut_after.clear()
        server.faults.seen.clear()
        pull(images, name)
        assert_whole(images, name)
        asked = [headers.get("range") for _, path, headers in server.faults.seen if sha256(packed) in path]
        assert asked == [f"bytes={len(packed) // 2}-"]


def fetched(images: Images, digest: str) -> int:
    """Bytes of a layer that a pull at work has written by now."""
    directory = images.layout.temporary / f"layer-{digest.removeprefix('sha256:')}"
    found = [path for path in (directory / "packed", directory / "new" / "layer.tar") if path.exists()]
    return found[0].stat().st_size if found else 0


async def until_written(images: Images, digest: str) -> None:
    with trio.fail_after(20):
        while not fetched(images, digest):
            await trio.sleep(0.01)


def cancelled(images: Images, name: str, digest: str, also: Path | None = None) -> None:
    """A pull that is cancelled once something of a blob has come, and `also` is there."""

    async def body() -> None:
        await images.prepare()
        async with trio.open_nursery() as nursery:
            wanted = reference.parse(name)
            nursery.start_soon(pulling.pull_image, images.layout, QUICK, wanted, None, None, lambda message: None)
            await until_written(images, digest)
            while also is not None and not also.exists():
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    trio.run(body)


def assert_taken_up(server: FaultyRegistry, images: Images, name: str, digest: str) -> None:
    """The next pull of a layer of which much had come asks for the rest alone."""
    server.faults.trickles.clear()
    server.faults.seen.clear()
    kept = fetched(images, digest)
    assert kept >= 1 << 19
    pull(images, name)
    asked = [headers.get("range") for _, path, headers in server.faults.seen if digest in path]
    assert asked == [f"bytes={kept}-"]
    assert not list(images.layout.temporary.iterdir())


@pytest.mark.parametrize("kind", [GZIP, ZSTD, PLAIN])
def test_a_pull_that_was_cancelled_is_taken_up_by_the_next(tmp_path: Path, kind: str) -> None:
    never = threading.Event()
    with faulty_registry() as server:
        name, packed = big(server, kind)
        server.faults.trickles[sha256(packed)] = 1_400_000, never
        images = store(tmp_path)

        cancelled(images, name, sha256(packed))
        assert images.layout.entries() == []
        assert_taken_up(server, images, name, sha256(packed))
        assert_whole(images, name)
        never.set()


def test_whole_layers_of_a_pull_that_was_cancelled_outlive_the_engine(tmp_path: Path) -> None:
    never = threading.Event()
    with faulty_registry() as server:
        name, packed = big(server)
        server.faults.trickles[sha256(packed)] = 1_400_000, never
        images = store(tmp_path)
        small = images.layout.layer(sha256(SMALL))

        cancelled(images, name, sha256(packed), small)
        for engine in (images, store(tmp_path)):
            trio.run(engine.tidy)
            assert small.exists()
            assert Check(engine.layout, False, lambda _: None).run() == []
        assert_taken_up(server, images, name, sha256(packed))
        assert len(server.faults.paths("/blobs/")) == 2  # the configuration and the rest of the large one
        assert_whole(images, name)
        trio.run(lambda: images.remove(name, force=False))
        assert not small.exists()
        server.faults.trickles[sha256(packed)] = 1_400_000, never
        cancelled(images, name, sha256(packed), small)  # and nobody takes it up
        for path in images.layout.temporary.glob("layer-*/*"):
            os.utime(path, (1, 1))
        trio.run(images.tidy)
        assert not small.exists()
        assert not list(images.layout.temporary.iterdir())
        never.set()


@pytest.mark.parametrize("damaged", [False, True])
def test_what_came_of_a_layer_is_kept_where_another_fails(tmp_path: Path, damaged: bool) -> None:
    other = tar_of({"noise": random.Random(2).randbytes(1_500_000)})
    come, broken = gzip.compress(BIG), gzip.compress(other)
    never, fail = threading.Event(), threading.Event()
    with faulty_registry() as server:
        server.add("1", [(BIG, come, GZIP), (other, broken, GZIP)])
        server.faults.trickles = {sha256(come): (1_400_000, never), sha256(broken): (0, fail)}
        images, name = store(tmp_path), f"{server.address}/app:1"

        async def failing() -> None:
            with pytest.raises(RootlessError, match="damaged" if damaged else "cannot reach the registry"):
                await pulling.pull_image(images.layout, QUICK, reference.parse(name), None, None, lambda message: None)

        async def body() -> None:
            await images.prepare()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(failing)
                await until_written(images, sha256(come))
                if damaged:
                    server.blobs[sha256(broken)] = broken[:700_000] + bytes(100) + broken[700_100:]
                    del server.faults.trickles[sha256(broken)]
                fail.set()

        trio.run(body)
        assert (images.layout.temporary / f"layer-{sha256(broken)[7:]}").exists() is not damaged
        server.blobs[sha256(broken)] = broken
        assert_taken_up(server, images, name, sha256(come))
        never.set()


@pytest.mark.parametrize("kind", [GZIP, ZSTD, PLAIN])
def test_what_a_cancelled_pull_kept_and_is_wrong_is_fetched_anew(tmp_path: Path, kind: str) -> None:
    never = threading.Event()
    with faulty_registry() as server:
        name, packed = big(server, kind)
        wrong = packed[: 1 << 18] + bytes(100) + packed[(1 << 18) + 100 :]
        server.faults.trickles[sha256(packed)] = 1_400_000, never
        server.blobs[sha256(packed)] = wrong
        images = store(tmp_path)

        async def body() -> None:
            await images.prepare()
            with trio.move_on_after(20):
                async with trio.open_nursery() as nursery:
                    wanted = reference.parse(name)
                    nursery.start_soon(
                        pulling.pull_image, images.layout, QUICK, wanted, None, None, lambda message: None
                    )
                    await until_written(images, sha256(packed))
                    nursery.cancel_scope.cancel()

        with contextlib.suppress(ExceptionGroup):  # what is damaged may be noticed before
            trio.run(body)
        server.faults.trickles.clear()
        with pytest.raises(InvalidParameter):
            pull(images, name)
        assert not list(images.layout.temporary.iterdir())
        server.blobs[sha256(packed)] = packed
        pull(images, name)
        assert_whole(images, name)
        never.set()


@pytest.mark.parametrize("kind", [GZIP, ZSTD, PLAIN])
def test_what_was_kept_and_is_damaged_is_fetched_anew(tmp_path: Path, kind: str) -> None:
    with faulty_registry() as server:
        name, packed = big(server, kind)
        server.faults.cut_after = [len(packed) // 2] + [0] * 20
        images = store(tmp_path)
        with pytest.raises(RootlessError):
            pull(images, name)
        (kept,) = images.layout.temporary.glob("layer-*/packed")
        kept.write_bytes(bytes(len(packed) // 2))
        server.faults.cut_after.clear()
        pull(images, name)
        assert_whole(images, name)


def test_a_directory_that_another_pull_takes_away_just_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = store(tmp_path).layout
    layout.prepare()
    coming = layout.temporary / f"layer-{'1' * 64}"
    coming.mkdir()
    (coming / "packed").symlink_to("gone")  # listed, and gone when it is looked at
    partial.remove_old(layout)
    assert coming.exists()

    def gone(path: Path, **options: object) -> None:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))

    monkeypatch.setattr(Path, "mkdir", gone)
    assert not partial.PartialLayer(layout, f"sha256:{'2' * 64}").try_lock()


def test_what_nobody_took_up_is_removed_after_days(tmp_path: Path) -> None:
    with faulty_registry() as server:
        name, packed = big(server)
        server.faults.cut_after = [len(packed) // 2] + [0] * 20
        images = store(tmp_path)
        with pytest.raises(RootlessError):
            pull(images, name)
        partial.remove_old(images.layout)
        assert list(images.layout.temporary.glob("layer-*/packed"))
        for path in images.layout.temporary.glob("layer-*/*"):
            os.utime(path, (1, 1))
        partial.remove_old(images.layout)
        assert not list(images.layout.temporary.iterdir())
