"""The store: readable by others, shared with other engines, with read-only stores below, and what is collected."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from fuse_overlay import open_tree
from rootless.api.http import Request
from rootless.api.images import prune
from rootless.engine.engine import Engine
from rootless.engine.events import Events
from rootless.images.image import Image
from rootless.images.images import Images
from rootless.images.removing import collect, remove_image
from rootless.images.selection import select
from rootless.images.storing import LayerBeingStored, place_image
from rootless.model.errors import Conflict, NotFound, RootlessError
from rootless.settings import Settings
from rootless.store import files
from tests.images.registries import config_of, docker_archive, sha256
from tests.images.test_import import everything, imported, store
from tests.images.test_load import load
from tests.images.test_pull import BOTTOM, TOP

NAME = "docker.io/library/app:1"


def test_skopeo_reads_the_layout(tmp_path: Path) -> None:
    images = store(tmp_path)
    load(images, docker_archive([BOTTOM, TOP], ["app:1"]))
    source = f"oci:{images.layout.images}:{NAME}"
    copy = ["skopeo", "copy", "-q", "--insecure-policy", source, f"docker-archive:{tmp_path}/out.tar:app:1"]
    subprocess.run(copy, check=True, capture_output=True, timeout=60)
    other = store(tmp_path / "other")
    load(other, (tmp_path / "out.tar").read_bytes())
    assert other.resolve("app:1").layers == images.resolve("app:1").layers


def test_a_name_that_another_engine_took_meanwhile_is_no_image(tmp_path: Path) -> None:
    images = store(tmp_path)
    load(images, docker_archive([BOTTOM, TOP], ["app:1", "app:2"]))
    found = images.resolve("app:1")
    trio.run(lambda: images.remove("app:1", force=False))
    with pytest.raises(NotFound, match="No such image: app:1"):
        remove_image(images.layout, images.uses, found, "app:1", False, frozenset())
    assert images.resolve("app:2").repo_tags == ["app:2"]


def test_what_a_container_needs_by_now_is_not_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it lose its names, as it does by `rmi -f`."""
    images = store(tmp_path)
    load(images, docker_archive([BOTTOM, TOP], ["app:1", "app:2"]))
    app, containers = images.resolve("app:1"), {}

    def create(*arguments: Any) -> list[Image]:  # after prune has looked what is used
        containers["c" * 64] = SimpleNamespace(id="c" * 64, running=False)
        images.uses.add("c" * 64, app.id)
        return select(*arguments)

    monkeypatch.setattr("rootless.api.images.selection.select", create)
    engine = SimpleNamespace(images=images, containers=SimpleNamespace(by_id=containers), events=Events())
    request = SimpleNamespace(query={"filters": '{"dangling": ["false"]}'})
    trio.run(prune, cast(Engine, engine), cast(Request, request), {})
    assert images.resolve(app.id).repo_tags == ["app:1", "app:2"]


def test_a_read_only_store_below(tmp_path: Path) -> None:
    site = store(tmp_path / "site")
    load(site, docker_archive([BOTTOM, TOP], ["app:1"]))
    load(site, docker_archive([BOTTOM], ["base:1"]))
    subprocess.run(["chmod", "-R", "a-w", str(tmp_path / "site")], check=True)
    before = everything(tmp_path / "site")
    settings = Settings(tmp_path / "data", tmp_path / "state", tmp_path / "run")
    images = Images(Settings(**{**vars(settings), "additional_stores": (tmp_path / "site" / "data",)}))
    trio.run(images.prepare)
    app = images.resolve("app:1")
    assert app.read_only
    source = images.source(app)
    assert open_tree(source.tree, source.layers).read_file(b"etc/motd", 10) == b"hello\n"
    with pytest.raises(Conflict, match="read-only store"):
        trio.run(lambda: images.remove("app:1", force=True))
    trio.run(images.tag, app, "mine", "1")
    assert {"mine:1", "app:1"} <= set(images.resolve("mine:1").repo_tags)
    with pytest.raises(Conflict, match="unable to delete app:1: it is in a read-only store"):
        trio.run(lambda: images.remove("app:1", force=True))
    assert "mine:1" in images.resolve("app:1").repo_tags
    load(images, docker_archive([BOTTOM, TOP], ["again:1"]))
    assert list(images.layout.layers.iterdir()) == []
    imported(images, TOP, "app:1")
    assert not images.resolve("app:1").read_only
    assert images.resolve(app.id).repo_tags == ["again:1", "mine:1"]
    for name in ("mine:1", "again:1", "app:1"):
        trio.run(lambda name=name: images.remove(name, force=False))
    assert images.resolve("app:1").read_only
    assert list(images.layout.blobs.iterdir()) == []
    assert everything(tmp_path / "site") == before
    subprocess.run(["chmod", "-R", "u+w", str(tmp_path / "site")], check=True)


def test_an_image_of_another_engine_s_container_stays(tmp_path: Path) -> None:
    first = store(tmp_path)
    second = Images(Settings(tmp_path / "data", tmp_path / "elsewhere", tmp_path / "run2"))
    image_id = imported(first, BOTTOM, "app:1")
    trio.run(first.use, "c" * 64, first.resolve("app:1"))
    with pytest.raises(Conflict, match=r"container cccccccccccc of .* is using"):
        trio.run(lambda: second.remove("app:1", force=False))
    trio.run(lambda: second.remove("app:1", force=True))
    assert first.resolve(image_id).names == ()
    first.uses.remove("c" * 64)
    trio.run(lambda: second.remove(image_id, force=False))
    with pytest.raises(NotFound):
        first.resolve(image_id)
    with pytest.raises(NotFound):
        trio.run(first.use, "d" * 64, second.all()[0].__class__(image_id, {}, image_id, ()))
    assert first.uses.all() == []


def test_what_is_held_is_not_collected(tmp_path: Path) -> None:
    """A pull that counts on a layer, and an rmi of the only image that has it in between."""
    images = store(tmp_path)
    load(images, docker_archive([BOTTOM], ["base:1"]))
    config = config_of([BOTTOM, TOP])
    with files.temporary_directory(images.layout.temporary) as staging:
        assert images.layout.hold(staging, [sha256(BOTTOM), sha256(TOP)]) == {sha256(BOTTOM)}
        trio.run(lambda: images.remove("base:1", force=False))
        layer = LayerBeingStored(staging / "top")
        layer.write(TOP)
        layer.finish()
        place_image(images.layout, {sha256(TOP): layer.directory}, config, [NAME], staging)
    assert collect(images.layout) == []
    assert images.resolve("app:1").layers == (sha256(BOTTOM), sha256(TOP))
    trio.run(lambda: images.remove("app:1", force=False))
    assert list(images.layout.layers.iterdir()) == []


def test_nothing_is_collected_where_an_entry_cannot_be_read(tmp_path: Path) -> None:
    images = store(tmp_path)
    load(images, docker_archive([BOTTOM], ["a:1"]))
    load(images, docker_archive([TOP], ["b:1"]))
    broken = images.resolve("a:1")
    images.layout.blob_path(broken.manifest_digest).unlink()
    images = store(tmp_path)
    trio.run(lambda: images.remove("b:1", force=False))
    assert len(list(images.layout.layers.iterdir())) == 2


def test_the_same_image_has_one_manifest_wherever_it_came_from(tmp_path: Path) -> None:
    first, second = store(tmp_path / "1"), store(tmp_path / "2")
    load(first, docker_archive([BOTTOM, TOP], ["a:1"]))
    load(second, docker_archive([BOTTOM], ["x:1"]))
    load(second, docker_archive([BOTTOM, TOP], ["b:1"]))
    assert first.resolve("a:1").manifest_digest == second.resolve("b:1").manifest_digest
    manifest = json.loads(second.layout.blob(second.resolve("b:1").manifest_digest))
    assert [layer["digest"] for layer in manifest["layers"]] == [sha256(BOTTOM), sha256(TOP)]
    shutil.rmtree(tmp_path / "1")


@pytest.mark.parametrize("limit", [0, 100, 600, 3000, 300_000])
@pytest.mark.parametrize("what", ["load", "import", "tag"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, what: str, limit: int) -> None:
    """No file may become larger than `limit`: the first one that would fails as on a disk that is full."""
    images = store(tmp_path)
    load(images, docker_archive([BOTTOM], ["base:1"]))
    if what == "tag":
        limit = min(limit, 600)  # its index.json is small
    before = {path: path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()}
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    attempt: dict[str, Callable[[], object]] = {
        "load": lambda: load(images, docker_archive([BOTTOM, TOP], ["app:1"])),
        "import": lambda: imported(images, TOP, "app:1"),
        "tag": lambda: trio.run(images.tag, images.resolve("base:1"), "base", "2"),
    }
    try:
        with pytest.raises(RootlessError, match="File too large"):
            attempt[what]()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert {path: path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()} == before
    assert store(tmp_path).resolve("base:1").repo_tags == ["base:1"]
    assert list(images.layout.temporary.iterdir()) == []


@pytest.mark.parametrize("layers", [[BOTTOM], [TOP, BOTTOM]])
@pytest.mark.parametrize("force", [True, False])
def test_an_image_is_removed_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers: list[bytes], force: bool
) -> None:
    """Its tree has the room that index.json wants: that of one layer is a link to the layer's own index."""
    images = store(tmp_path)
    load(images, docker_archive(layers, ["app:1", "app:2"]))
    load(images, docker_archive([TOP], ["other:1"]))
    app, before, write = images.resolve("app:1"), everything(tmp_path), files.write_file
    takes_the_room = images.source(app).tree.stat().st_ino

    def write_file(path: Path, data: bytes) -> None:
        if takes_the_room in {other.lstat().st_ino for other in tmp_path.rglob("*")}:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(files, "write_file", write_file)
    with pytest.raises(RootlessError, match=r"index\.json: No space left on device"):
        trio.run(lambda: images.remove("app:2", force=force))
    images.uses.add("c" * 64, app.id)
    with pytest.raises(RootlessError, match="No space left"):  # it only loses its names, so that it may take nothing
        trio.run(lambda: images.remove(app.id, force=True, stopped=frozenset({"c" * 12})))
    images.uses.remove("c" * 64)
    assert everything(tmp_path) - {"data/uses"} <= before | {f"data/uses/{images.uses._mine.name}"}
    done = trio.run(lambda: images.remove(app.id, force=True))
    assert {"Deleted": sha256(BOTTOM)} in done
    assert [path.name for path in images.layout.layers.iterdir()] == [sha256(TOP)[7:]]
    other = images.resolve("other:1")
    source = trio.run(images.sound_source, other)
    assert open_tree(source.tree, source.layers, other.layers).read_file(b"etc/new", 4) == b"new\n"


def test_prune_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their servers hold the trees open, and leave in their time."""
    images = store(tmp_path)
    for name, layers in ("a:1", [BOTTOM]), ("b:1", [TOP]), ("c:1", [BOTTOM, TOP]):
        load(images, docker_archive(layers, [name]))
    write = files.write_file

    mounted = {images.source(image).key for image in images.all()[:3]}
    tries = 0

    def write_file(path: Path, data: bytes) -> None:
        nonlocal tries
        trees, entries = len(list(images.layout.trees.iterdir())), len(images.layout.entries())
        tries += trees < entries
        if trees == entries or trees < len(mounted) or tries % 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(files, "write_file", write_file)

    async def unmount(key: str) -> None:
        mounted.discard(key)

    link = SimpleNamespace(unmount=unmount)
    engine = SimpleNamespace(images=images, containers=SimpleNamespace(by_id={}), events=Events(), link=link)
    request = SimpleNamespace(query={"filters": '{"dangling": ["false"]}'})
    trio.run(prune, cast(Engine, engine), cast(Request, request), {})
    assert images.layout.entries() == []
    assert list(images.layout.layers.iterdir()) == []


def test_before_and_since_see_fractions_of_a_second(tmp_path: Path) -> None:
    images = store(tmp_path)
    for number in (1, 2, 3):
        created = f"2024-01-01T00:00:00.{number}00000000Z"
        load(images, docker_archive([BOTTOM], [f"a:{number}"], config_of([BOTTOM], created=created)))
    for name, expected in (("before", ["a:1"]), ("since", ["a:3"])):
        found = select(images.all()[:3], {name: ["a:2"]}, images.resolve, 0)
        assert [image.repo_tags[0] for image in found] == expected


def test_what_a_killed_writer_of_the_index_left(tmp_path: Path) -> None:
    images = store(tmp_path)
    trio.run(images.prepare)
    (images.layout.images / ".index.json.abcd").touch()
    trio.run(images.prepare)
    assert sorted(path.name for path in images.layout.images.iterdir()) == ["blobs", "index.json", "lock", "oci-layout"]


def test_what_a_killed_engine_left_goes_when_the_next_one_starts(tmp_path: Path) -> None:
    images = store(tmp_path)
    load(images, docker_archive([BOTTOM, TOP], ["app:1"]))
    before = everything(tmp_path)
    imported(images, TOP, "gone:1")
    with images.layout.changing() as entries:  # killed between this and the collection
        entries[:] = [entry for entry in entries if "gone" not in json.dumps(entry)]
    assert everything(tmp_path) != before
    trio.run(images.tidy)
    assert everything(tmp_path) == before
    assert images.resolve("app:1").names
