"""Pulling from a real registry server, and from one that lies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from fuse_overlay import open_tree
from rootless.images.images import Images
from rootless.images.pulling import pull_image
from rootless.model import platforms, reference
from rootless.model.errors import Conflict, InvalidParameter, NotFound, RootlessError
from rootless.model.platforms import Platform
from rootless.registry.access import Access
from rootless.registry.media import INDEXES, MANIFESTS, choose
from tests.fuse_overlay.test_layers import D, F, archive
from tests.images.registries import (
    PASSWORD,
    USER,
    config_of,
    docker_archive,
    push,
    registry,
    sha256,
    token_server,
)
from tests.images.test_import import everything, store

BOTTOM = archive(("etc", D, b"", ""), ("etc/motd", F, b"hello\n", ""), ("etc/gone", F, b"x", ""))
TOP = archive(("etc", D, b"", ""), ("etc/.wh.gone", F, b"", ""), ("etc/new", F, b"new\n" * 100000, ""))
QUICK = Access(backoff_seconds=0.001, attempts=2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    directory = tmp_path_factory.mktemp("registry")
    with registry(directory) as address:
        push(docker_archive([BOTTOM, TOP], ["x:1"]), f"{address}/team/app:1", directory)
        yield address, directory


def pull(
    images: Images, name: str, auth: dict[str, str] | None = None, platform: Platform | None = None
) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []

    async def body() -> None:
        await images.prepare()
        await pull_image(images.layout, QUICK, reference.parse(name), platform, auth, messages.append)

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


def test_rmi_takes_the_digests_of_a_repository_with_its_last_name(tmp_path: Path, server: tuple[str, Path]) -> None:
    images, name = store(tmp_path), f"{server[0]}/first/app"
    for target in (f"{name}:1", f"{name}:2", f"{server[0]}/second/app:1"):
        push(docker_archive([BOTTOM, TOP], ["x:1"]), target, tmp_path)
        said = [m["status"] for m in pull(images, target)]
        assert said[-1] == f"Status: Downloaded newer image for {target}"
    digest = next(one[8:] for one in said if one.startswith("Digest: "))
    second = f"{server[0]}/second/app"

    def remove(text: str) -> list[dict[str, str]]:
        return trio.run(lambda: images.remove(text, force=False))

    assert remove(f"{name}:2") == [{"Untagged": f"{name}:2"}]
    image = images.resolve(f"{name}:1")
    assert remove(f"{second}@{digest}") == [{"Untagged": f"{second}@{digest}"}]
    assert images.resolve(f"{second}:1").repo_digests == [f"{name}@{digest}"]
    with pytest.raises(NotFound, match="No such image"):
        remove(f"{second}@{digest}")
    assert remove(f"{name}:1") == [{"Untagged": f"{name}:1"}, {"Untagged": f"{name}@{digest}"}]
    pull(images, f"{name}@{digest}")
    assert remove(f"{second}:1") == [{"Untagged": f"{second}:1"}]
    assert images.resolve(f"{name}@{digest}").id == image.id
    rows = remove(f"{name}@{digest}")
    assert rows[:2] == [{"Untagged": f"{name}@{digest}"}, {"Deleted": image.id}]
    assert images.layout.entries() == []


def test_a_digest_stays_where_a_name_of_another_repository_goes(tmp_path: Path, server: tuple[str, Path]) -> None:
    images, name = store(tmp_path), f"{server[0]}/team/app"
    push(docker_archive([BOTTOM, TOP], ["x:1"]), f"{name}:1", tmp_path)
    digest = next(m["status"][8:] for m in pull(images, f"{name}:1") if m["status"].startswith("Digest: "))

    def remove(text: str) -> list[dict[str, str]]:
        return trio.run(lambda: images.remove(text, force=False))

    remove(f"{name}:1")
    pull(images, f"{name}@{digest}")
    image = images.resolve(f"{name}@{digest}")
    trio.run(images.tag, image, "mine", "1", image.id)
    with pytest.raises(Conflict, match=r"\(must be forced\) - image is referenced in multiple repositories"):
        remove(image.id)
    assert remove("mine:1") == [{"Untagged": "mine:1"}]
    trio.run(images.use, "c" * 64, image)
    with pytest.raises(Conflict, match=r"\(cannot be forced\) - image is being used by running container cccccccccccc"):
        trio.run(lambda: images.remove(image.id, force=True))
    images.uses.remove("c" * 64)
    trio.run(images.tag, image, f"{name}", "2", image.id)
    assert remove(f"{name}:2")[:2] == [{"Untagged": f"{name}:2"}, {"Untagged": f"{name}@{digest}"}]
    assert images.layout.entries() == []


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


def test_tokens(tmp_path: Path) -> None:
    images = store(tmp_path)
    user = {"username": USER, "password": PASSWORD}
    with token_server(tmp_path) as tokens, registry(tmp_path, tokens=tokens) as address:
        for repository in ("public/app", "team/app"):
            push(
                docker_archive([TOP], ["x:1"]), f"{address}/{repository}:1", tmp_path, f"--dest-creds={USER}:{PASSWORD}"
            )
        tokens.asked.clear()
        pull(images, f"{address}/public/app:1")
        assert tokens.asked == ["GET"]
        with pytest.raises(NotFound, match="pull access denied"):
            pull(images, f"{address}/team/app:1")
        with pytest.raises(NotFound, match="pull access denied"):
            pull(images, f"{address}/team/app:1", {"username": USER, "password": "wrong"})
        pull(images, f"{address}/team/app:1", user)
        tokens.asked.clear()
        pull(images, f"{address}/team/app:1", {"identitytoken": tokens.REFRESH})
        assert tokens.asked == ["POST"]
        pull(
            images,
            f"{address}/team/app:1",
            {"registrytoken": tokens.token({"service": "registry", "scope": "repository:team/app:pull"}, True)},
        )
        assert tokens.asked == ["POST"]
    assert len(images.layout.entries()) == 2


def test_an_index_of_platforms(tmp_path: Path, server: tuple[str, Path]) -> None:
    address, directory = server
    images, entries = store(tmp_path), []
    for architecture in ("amd64", "arm64"):
        archive = docker_archive([TOP], ["x:1"], config_of([TOP], architecture=architecture))
        push(archive, f"{address}/team/many:{architecture}", directory)
        with httpx.Client() as client:
            got = client.get(
                f"http://{address}/v2/team/many/manifests/{architecture}", headers={"Accept": MANIFESTS[1]}
            )
        platform = {"os": "linux", "architecture": architecture}
        entries.append(
            {"mediaType": MANIFESTS[1], "digest": sha256(got.content), "size": len(got.content), "platform": platform}
        )
    index = {"schemaVersion": 2, "mediaType": INDEXES[1], "manifests": entries}
    httpx.put(
        f"http://{address}/v2/team/many/manifests/all", content=json.dumps(index), headers={"Content-Type": INDEXES[1]}
    ).raise_for_status()
    name = f"{address}/team/many:all"
    for architecture in ("arm64", "amd64"):
        pull(images, name, platform=Platform("linux", architecture))
        assert images.resolve(name).config["architecture"] == architecture
    with pytest.raises(NotFound, match=r"no matching manifest for linux/s390x .*linux/amd64, linux/arm64"):
        pull(images, name, platform=Platform("linux", "s390x"))


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        ("linux/arm64/v8", ["linux/arm/v7", "linux/arm64"], 1),
        ("linux/arm/v7", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/arm/v8", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/arm/v6", ["linux/arm/v7"], None),
        ("linux/arm", ["windows/arm/v7", "linux/arm/v7", "linux/arm/v6"], 1),
        ("linux/amd64", ["linux/arm64"], None),
    ],
)
def test_choice(wanted: str, offered: list[str], chosen: int | None) -> None:
    manifests = [
        {"digest": sha256(bytes([number])), "platform": platforms.parse(text).image_fields()}
        for number, text in enumerate(offered)
    ]
    if chosen is None:
        with pytest.raises(NotFound, match="no matching manifest"):
            choose({"manifests": manifests}, platforms.parse(wanted), "x")
    else:
        assert choose({"manifests": manifests}, platforms.parse(wanted), "x") == sha256(bytes([chosen]))


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


def test_the_platform_of_an_image_that_is_for_one_alone(tmp_path: Path, server: tuple[str, Path]) -> None:
    name = f"{server[0]}/team/app:1"
    with pytest.raises(NotFound) as refused:
        pull(store(tmp_path), name, platform=Platform("linux", "arm64"))
    assert refused.value.message == (
        f"image with reference {name} was found but its platform (linux/amd64) does not match the specified platform "
        "(linux/arm64)"
    )
