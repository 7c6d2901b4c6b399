"""Pulling from a real registry server, and from one that lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from fuse_overlay import open_tree
from rootless.images.images import Images
from rootless.model import reference
from rootless.model.errors import InvalidParameter, NotFound, RootlessError
from tests.fuse_overlay.test_layers import D, F, archive
from tests.images.registries import PASSWORD, USER, docker_archive, push, registry
from tests.images.test_import import everything, store

BOTTOM = archive(("etc", D, b"", ""), ("etc/motd", F, b"hello\n", ""), ("etc/gone", F, b"x", ""))
TOP = archive(("etc", D, b"", ""), ("etc/.wh.gone", F, b"", ""), ("etc/new", F, b"new\n" * 100000, ""))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    directory = tmp_path_factory.mktemp("registry")
    with registry(directory) as address:
        push(docker_archive([BOTTOM, TOP], ["x:1"]), f"{address}/team/app:1", directory)
        yield address, directory


def pull(images: Images, name: str, auth: dict[str, str] | None = None, platform: str = "") -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []

    async def body() -> None:
        await images.prepare()
        await images.pull(reference.parse(name), platform, auth, messages.append)

    trio.run(body)
    return messages


def test_an_image_of_two_layers(tmp_path: Path, server: tuple[str, Path]) -> None:
    images, name = store(tmp_path), f"{server[0]}/team/app:1"
    first = pull(images, name)
    image = images.resolve(name)
    source = images.source(image)
    tree = open_tree(source.tree, source.layers)
    assert tree.read_file(b"etc/motd", 100) == b"hello\n"
    assert tree.read_file(b"etc/new", 10) == b"new\nnew\nne"
    assert image.repo_tags == [name]
    assert image.process_config["Env"] == ["A=b"]
    assert [m["status"] for m in first if m["status"].startswith("Status")] == [
        f"Status: Downloaded newer image for {name}"
    ]
    again = [m["status"] for m in pull(images, name)]
    assert again.count("Already exists") == 2
    assert again[-1] == f"Status: Image is up to date for {name}"


def test_by_digest(tmp_path: Path, server: tuple[str, Path]) -> None:
    images, name = store(tmp_path), f"{server[0]}/team/app"
    digest = next(m["status"][8:] for m in pull(images, f"{name}:1") if m["status"].startswith("Digest: "))
    other = store(tmp_path / "other")
    pull(other, f"{name}@{digest}")
    assert other.resolve(f"{name}@{digest}").id == images.resolve(f"{name}:1").id


@pytest.mark.parametrize("tag", ["absent", "1-not"])
def test_what_is_not_there(tmp_path: Path, server: tuple[str, Path], tag: str) -> None:
    images = store(tmp_path)
    with pytest.raises(NotFound, match="not found: manifest unknown"):
        pull(images, f"{server[0]}/team/app:{tag}")
    with pytest.raises(NotFound):
        pull(images, f"{server[0]}/team/nothing:{tag}")
    assert images.layout.entries() == []


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(RootlessError, match=r"cannot reach the registry 127\.0\.0\.1:1: "):
        pull(store(tmp_path), "127.0.0.1:1/app")


def test_a_password(tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    images = store(tmp_path / "store")
    with registry(served, password=True) as address:
        push(docker_archive([BOTTOM], ["x:1"]), f"{address}/app:1", served, f"--dest-creds={USER}:{PASSWORD}")
        for auth in (None, {"username": USER, "password": "wrong"}):
            with pytest.raises(NotFound, match=r"pull access denied for .*/app"):
                pull(images, f"{address}/app:1", auth)
        pull(images, f"{address}/app:1", {"username": USER, "password": PASSWORD})
        assert images.resolve(f"{address}/app:1").names


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", [_cut, _flip, lambda data: data + b"more", lambda data: b""])
def test_damaged_blobs_leave_nothing(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """Every blob of the server's disk in turn: manifest, configuration, both layers."""
    served = tmp_path / "served"
    served.mkdir()
    with registry(served) as address:
        push(docker_archive([BOTTOM, TOP], ["x:1"]), f"{address}/app:1", served)
        files = sorted((served / "blobs").glob("docker/registry/v2/blobs/sha256/*/*/data"))
        assert len(files) == 4
        images = store(tmp_path / "store")
        trio.run(images.prepare)
        before = everything(tmp_path / "store")
        for file in files:
            whole = file.read_bytes()
            file.write_bytes(damage(whole))
            with pytest.raises((InvalidParameter, RootlessError)):
                pull(images, f"{address}/app:1")
            file.write_bytes(whole)
            left = everything(tmp_path / "store") - before
            assert not any("tmp/" in name or "layers/" in name or "blobs/" in name for name in left), left
        pull(images, f"{address}/app:1")
        assert images.resolve(f"{address}/app:1").names
