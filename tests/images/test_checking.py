"""`system check`: everything that may be wrong in a store, found, named, mended where that is possible."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import zstandard

from fuse_overlay import open_tree
from rootless.images.checking import Check, Problem
from rootless.images.images import Images
from rootless.model.errors import RootlessError
from tests.images.registries import docker_archive, push, put_image, registry, sha256
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


def replace_index(images: Images, text: bytes | None) -> None:
    path = images.layout.images / "index.json"
    path.unlink() if text is None else path.write_bytes(text)


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


LOST = [b"[]", b"{}", b'{"manifests": {}}', b'{"manifests": [', b"", None]


@pytest.mark.parametrize("text", LOST)
def test_nothing_is_removed_for_a_lost_index(tmp_path: Path, images: Images, text: bytes | None) -> None:
    """By the next engine, before --repair has found the images again."""
    app = images.resolve("app:1")
    replace_index(images, text)
    lost = everything(tmp_path)
    images = store(tmp_path)
    trio.run(images.prepare)
    trio.run(images.tidy)
    assert everything(tmp_path) == lost
    refused: list[Callable[[], object]] = [
        images.all,
        lambda: check(images),
        lambda: trio.run(lambda: images.remove("app:1", force=True)),
        lambda: trio.run(images.tag, app, "app", "3"),
        lambda: trio.run(images.use, "c" * 64, app),
        lambda: imported(images, TOP, "top:1"),
    ]
    for command in refused:
        with pytest.raises(RootlessError, match=r"index\.json is (missing|damaged).*`rootless system check --repair`"):
            command()
    assert everything(tmp_path) == lost
    (problem,) = check(images, mend=True)
    assert problem.mended
    assert check(images) == []
    trio.run(images.tidy)
    assert everything(tmp_path) == lost | {"data/images/index.json"}
    assert sorted(image.id for image in images.all()) == sorted(image.id for image in store(tmp_path).all())
    trio.run(images.tag, images.resolve(app.id), "app", "1")
    assert works(images)


def test_an_index_and_a_manifest_are_made_anew(images: Images) -> None:
    app = images.resolve("app:1")
    replace_index(images, None)
    images.layout.blob_path(app.manifest_digest).unlink()
    assert all(problem.mended for problem in check(images, mend=True))
    assert check(images) == []
    assert images.resolve(app.id).layers == app.layers


@pytest.mark.parametrize("text", LOST)
def test_manifests_of_registries_are_no_images(tmp_path: Path, text: bytes | None) -> None:
    """Of an image with plain layers they look much like ours."""
    images = store(tmp_path / "store")
    (tmp_path / "served").mkdir()
    with registry(tmp_path / "served") as address:
        for form, pack in ("gzip", gzip.compress), ("zstd", zstandard.compress), ("", bytes):
            layers = [(tar, pack(tar), form) for tar in (BOTTOM, TOP)]
            put_image(address, f"of/{form or 'plain'}", "1", layers, schema2=form == "gzip")
            pull(images, f"{address}/of/{form or 'plain'}:1")
    (app,) = (image for image in images.all() if not images.is_host(image))
    assert len(app.digests) == 3
    replace_index(images, text)
    images = store(tmp_path / "store")
    trio.run(images.prepare)
    _, unnamed = check(images, mend=True)
    assert unnamed.what.startswith("3 files that no image needs")
    (found,) = (image for image in images.all() if not images.is_host(image))
    assert (found.id, found.manifest_digest, found.names) == (app.id, app.manifest_digest, ())
    assert check(images) == []


@pytest.mark.parametrize("text", [None, b'{"schemaVersion": 2, "manifests": []}'])
def test_an_empty_store_is_one(tmp_path: Path, text: bytes | None) -> None:
    images = store(tmp_path)
    trio.run(images.prepare)
    assert images.layout.entries() == []
    assert json.loads((images.layout.images / "index.json").read_bytes())["manifests"] == []
    imported(images, BOTTOM, "base:1")
    replace_index(images, text)
    if text is None:
        trio.run(images.tidy)
        assert len(list(images.layout.layers.iterdir())) == 1
        return
    assert len(images.all()) == 1
    trio.run(images.tidy)
    assert list(images.layout.layers.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "right", "names"),
    [
        (b'"io.containerd.image.name": "docker.io/library/%pp:1"', b"docker.io/library/app:1", ["app:1", "app:2"]),
        (b"docker.io/library/%pp:1", b"docker.io/library/app:1", ["app:2"]),
        (b'"annotations": "x", "was"', b'"annotations"', ["app:2"]),
    ],
)
def test_one_bad_entry_is_mended_and_the_others_stay(
    images: Images, wrong: bytes, right: bytes, names: list[str]
) -> None:
    base = images.resolve("base:1")
    path = images.layout.images / "index.json"
    data = path.read_bytes()
    near = wrong.replace(b"%pp", b"app").replace(b'"annotations": "x", "was"', b'"annotations"')
    assert near in data
    path.write_bytes(data.replace(near, wrong, 1 if b"annotations" in wrong else -1))
    with pytest.raises(RootlessError, match=r"index\.json is damaged \(.* of sha256:.*--repair"):
        images.all()
    with pytest.raises(RootlessError, match=r"index\.json is damaged \(.* of sha256:.*--repair"):
        check(images)
    (problem,) = check(images, mend=True)
    assert problem.mended
    assert check(images) == []
    assert images.resolve("app:2").repo_tags == names
    assert images.resolve("base:1").id == base.id


def test_an_image_whose_digest_is_wrong_stays_without_its_names(images: Images) -> None:
    app = images.resolve("app:1")
    path = images.layout.images / "index.json"
    path.write_text(path.read_text().replace(app.manifest_digest, f"{app.manifest_digest[:-1]}%"))
    (problem,) = check(images, mend=True)
    assert problem.mended
    assert images.resolve(app.id).names == ()
    assert images.resolve("base:1").repo_tags == ["base:1"]


@pytest.mark.parametrize("mend", [True, False])
@pytest.mark.parametrize("what", ["mode", "directory"])
def test_an_index_that_cannot_be_read(tmp_path: Path, images: Images, what: str, mend: bool) -> None:
    path = images.layout.images / "index.json"
    if what == "directory":
        path.unlink()
        path.mkdir()
    else:
        path.chmod(0)
    images = store(tmp_path)
    trio.run(images.prepare)
    trio.run(images.tidy)
    assert len(list(images.layout.layers.iterdir())) == 2
    for command in (images.all, lambda: check(images, mend=mend)):
        with pytest.raises(RootlessError, match=r"cannot read .*index\.json: (Permission denied|Is a directory)"):
            command()
    if what == "mode":
        path.chmod(0o644)
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
