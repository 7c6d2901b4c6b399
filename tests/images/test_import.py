"""Importing, naming and removing images, on a store in a temporary directory."""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
import trio
import zstandard

from fuse_overlay import open_tree
from rootless.images.changes import apply
from rootless.images.images import Images
from rootless.images.importing import ImportRequest
from rootless.model.errors import Conflict, InvalidParameter, NotFound
from rootless.settings import Settings
from tests.fuse_overlay.test_layers import D, F, archive

TAR = archive(("etc", D, b"", ""), ("etc/motd", F, b"hello\n", ""))


async def pieces(data: bytes, size: int = 700) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def store(tmp_path: Path) -> Images:
    return Images(Settings(tmp_path / "data", tmp_path / "state", tmp_path / "run"))


def everything(tmp_path: Path) -> set[str]:
    return {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}


def imported(images: Images, data: bytes, name: str = "", changes: Sequence[str] = ()) -> str:
    async def body() -> str:
        await images.prepare()
        return await images.import_image(pieces(data), ImportRequest(name, tuple(changes)))

    return trio.run(body)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_plain_and_compressed_archives_are_the_same_layer(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    images = store(tmp_path)
    imported(images, pack(TAR), "made:1")
    image = images.resolve("made:1")
    source = images.source(image)
    tree = open_tree(source.tree, source.layers)
    assert tree.read_file(b"etc/motd", 100) == b"hello\n"
    assert (source.layers[0] / "layer.tar").read_bytes() == TAR
    assert image.repo_tags == ["made:1"]


@pytest.mark.parametrize(
    "data",
    [
        TAR[:700],
        gzip.compress(TAR)[:-20],
        gzip.compress(TAR)[:40],
        b"",
        b"x",
        b"no archive" * 100,
        b"\x1f\x8bdamaged" * 9,
    ],
)
def test_a_broken_archive_leaves_nothing(tmp_path: Path, data: bytes) -> None:
    images = store(tmp_path)
    trio.run(images.prepare)
    before = everything(tmp_path)
    with pytest.raises(InvalidParameter):
        imported(images, data, "broken")
    assert everything(tmp_path) - before <= {"data/images/lock"}
    assert [image.repo_tags for image in images.all()] == [["host:latest"]]


def test_names_move_and_images_go_with_their_last_name(tmp_path: Path) -> None:
    images = store(tmp_path)
    first = imported(images, TAR, "a")
    second = imported(images, TAR, "a", ["CMD x"])
    assert images.resolve("a").id == second
    assert images.resolve(first).names == ()
    trio.run(images.tag, images.resolve(first), "b", "2")

    async def remove(text: str) -> list[dict[str, str]]:
        return await images.remove(text, force=False)

    trio.run(images.use, "c" * 64, images.resolve(first))
    with pytest.raises(Conflict, match="container cccccccccccc is using its referenced image"):
        trio.run(remove, "b:2")
    images.uses.remove("c" * 64)
    assert trio.run(remove, "b:2") == [{"Untagged": "b:2"}, {"Deleted": first}]
    removed = trio.run(remove, "a")
    assert [next(iter(row)) for row in removed] == ["Untagged", "Deleted", "Deleted"]
    assert list(images.layout.layers.iterdir()) == []
    assert list(images.layout.trees.iterdir()) == []
    with pytest.raises(NotFound, match="No such image: a:latest"):
        images.resolve("a")


def test_ids_and_their_prefixes(tmp_path: Path) -> None:
    images = store(tmp_path)
    made = imported(images, TAR)
    for text in (made, made.removeprefix("sha256:"), made[7:19], made[:20]):
        assert images.resolve(text).id == made
    with pytest.raises(NotFound):
        images.resolve("ffffffffffff")


def test_what_a_killed_import_left_is_removed(tmp_path: Path) -> None:
    images = store(tmp_path)
    trio.run(images.prepare)
    left = images.layout.temporary / "new-dead"
    left.mkdir()
    (left / ".lock").touch()
    (left / "layer.tar").write_bytes(b"x")
    trio.run(images.prepare)
    assert not left.exists()


@pytest.mark.parametrize(
    ("change", "name", "value"),
    [
        ('CMD ["a", "b c"]', "Cmd", ["a", "b c"]),
        ("CMD a b", "Cmd", ["/bin/sh", "-c", "a b"]),
        ('entrypoint ["x"]', "Entrypoint", ["x"]),
        ("ENV A=1 B='two words'", "Env", ["A=1", "B=two words"]),
        ("ENV A one two", "Env", ["A=one two"]),
        ("EXPOSE 80 53/UDP", "ExposedPorts", {"80/tcp": {}, "53/udp": {}}),
        ("LABEL a=b", "Labels", {"a": "b"}),
        ("VOLUME /a /b", "Volumes", {"/a": {}, "/b": {}}),
        ("WORKDIR /x", "WorkingDir", "/x"),
        ("USER me", "User", "me"),
    ],
)
def test_changes(change: str, name: str, value: object) -> None:
    assert apply({}, [change])[name] == value


@pytest.mark.parametrize("change", ["NOPE x", "CMD", "EXPOSE x", "EXPOSE 0", "LABEL =x", "ENV 'A=b"])
def test_wrong_changes_are_refused(change: str) -> None:
    with pytest.raises(InvalidParameter):
        apply({}, [change])


def test_the_built_in_image_stays_as_it_is(tmp_path: Path) -> None:
    images = store(tmp_path)
    trio.run(images.prepare)
    built_in = images.resolve("host")
    assert images.resolve(built_in.id) is built_in
    source = images.source(built_in)
    assert (source.kind, source.tree) == ("directory", Path("/"))
    assert {"home", "proc", "tmp"} <= set(source.exclude)
    with pytest.raises(Conflict, match="unable to delete host"):
        trio.run(functools.partial(images.remove, "host", force=True))
    with pytest.raises(Conflict, match="this machine itself"):
        trio.run(images.tag, built_in, "mine", "")
    imported(images, TAR, "a")
    with pytest.raises(Conflict, match="this machine itself"):
        trio.run(images.tag, images.resolve("a"), "host", "latest")
    with pytest.raises(Conflict, match="this machine itself"):
        imported(images, TAR, "host")
