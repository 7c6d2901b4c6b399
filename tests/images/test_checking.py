"""`system check`: everything that may be wrong in a store, found, named, mended where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from fuse_overlay import open_tree
from rootless.images.checking import Check, Problem
from rootless.images.images import Images
from tests.images.registries import docker_archive, push, registry, sha256
from tests.images.test_import import everything, imported, store
from tests.images.test_load import load
from tests.images.test_pull import BOTTOM, TOP, pull


def check(images: Images, mend: bool = False) -> list[Problem]:
    found = Check(images.layout, mend, lambda _: None).run()
    images.forget()
    return found


@pytest.fixture
def images(tmp_path: Path) -> Images:
    images = store(tmp_path)
    load(images, docker_archive([BOTTOM, TOP], ["app:1", "app:2"]))
    imported(images, BOTTOM, "base:1")
    return images


def works(images: Images) -> bool:
    source = images.source(images.resolve("app:1"))
    tree = open_tree(source.tree, source.layers)
    return tree.read_file(b"etc/new", 4) == b"new\n" and tree.read_file(b"etc/gone", 4) is None


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: list[Callable[[Path], None]] = [_cut, _flip, Path.unlink, lambda path: path.write_bytes(b"")]


def test_a_good_store(tmp_path: Path, images: Images) -> None:
    before = everything(tmp_path)
    assert check(images) == []
    assert check(images, mend=True) == []
    assert everything(tmp_path) == before


def test_a_tree_that_was_made_anew_is_mounted_anew(images: Images) -> None:
    """A file that is cut short in its place is full of zeros for the server that has it mapped, as far as its page."""
    app = images.resolve("base:1")
    before = images.source(app)
    assert trio.run(images.sound_source, app) == before
    before.tree.write_bytes(b"x")
    after = trio.run(images.sound_source, app)
    assert after.key != before.key
    assert images.source(app) == after


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("what", ["layer index", "tree", "link", "manifest", "index.json"])
def test_what_can_be_mended(images: Images, what: str, damage: Callable[[Path], None]) -> None:
    app = images.resolve("app:1")
    path = {
        "layer index": images.layout.layer(sha256(TOP)) / "index",
        "tree": images.layout.tree(app.layers),
        "link": images.layout.blob_path(sha256(TOP)),
        "manifest": images.layout.blob_path(app.manifest_digest),
        "index.json": images.layout.images / "index.json",
    }[what]
    if what == "link":
        path.unlink()
    elif what == "index.json":
        path.write_bytes(b'{"manifests": [')
    else:
        damage(path)
    if what != "index.json":
        (problem,) = check(images)
        assert not problem.mended
        assert "--repair" in problem.todo
    (mended,) = check(images, mend=True)
    assert mended.mended
    assert check(images) == []
    if what == "index.json":
        trio.run(images.tag, images.resolve(app.id), "app", "1")
    assert works(images)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_layer_is_named_and_comes_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    served = tmp_path / "served"
    served.mkdir()
    images = store(tmp_path / "store")
    with registry(served) as address:
        push(docker_archive([BOTTOM, TOP], ["x:1"]), f"{address}/app:1", served)
        name = f"{address}/app:1"
        pull(images, name)
        trio.run(images.tag, images.resolve(name), "app", "1")
        damage(images.layout.layer(sha256(TOP)) / "layer.tar")
        (problem,) = check(images)
        assert problem.todo == f"pull {name} again"
        assert set(problem.images) == {name, "app:1"}
        (problem,) = check(images, mend=True)
        assert not problem.mended
        pull(images, name)
        assert check(images) == []
        assert works(images)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_configuration(images: Images, damage: Callable[[Path], None]) -> None:
    damage(images.layout.blob_path(images.resolve("app:1").id))
    (problem,) = check(images)
    assert "remove the image and load" in problem.todo
    assert len(check(images, mend=True)) == 1
    load(images, docker_archive([BOTTOM, TOP], ["app:1"]))
    assert check(images) == []
    assert works(images)


def test_what_nobody_needs(images: Images) -> None:
    (images.layout.layers / "0123").mkdir()
    (images.layout.trees / "4567").touch()
    (images.layout.blobs / "89ab").touch()
    (images.layout.blobs / ".new").touch()
    (problem,) = check(images)
    assert problem.what.startswith("4 files that no image needs")
    (problem,) = check(images, mend=True)
    assert problem.mended
    assert check(images) == []
