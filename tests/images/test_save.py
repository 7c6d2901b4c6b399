"""Archives: what we write is what docker, skopeo, podman and the image specification take, and comes back the same."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
import trio

from rootless.images.images import Images
from rootless.model.errors import Conflict, InvalidParameter, NotFound
from tests.images.registries import config_of, docker_archive, tar_of
from tests.images.test_import import imported, store
from tests.images.test_load import load
from tests.images.test_pull import BOTTOM, TOP


def save(images: Images, *names: str, form: str = "docker") -> bytes:
    async def body() -> bytes:
        return b"".join([data async for data in images.save(names, form)[0]])

    return trio.run(body)


@pytest.fixture
def images(tmp_path: Path) -> Images:
    images = store(tmp_path / "first")
    load(images, docker_archive([BOTTOM, TOP], ["app:1", "app:2", "host:5000/team/app:x"]))
    load(images, docker_archive([BOTTOM], ["base:latest"], config_of([BOTTOM], author="somebody")))
    return images


def skopeo(*words: str) -> str:
    command = ["skopeo", *words[:1], "--insecure-policy"] if words[0] == "copy" else ["skopeo", words[0]]
    return subprocess.run([*command, *words[1:]], check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize("form", ["docker", "oci"])
def test_a_round_trip(tmp_path: Path, images: Images, form: str) -> None:
    data = save(images, "app:1", "base", form=form)
    other = store(tmp_path / "second")
    assert load(other, data) == ["Loaded image: app:1\n", "Loaded image: base:latest\n"]
    for name in ("app:1", "base"):
        first, second = images.resolve(name), other.resolve(name)
        assert (first.id, first.manifest_digest, first.layers) == (second.id, second.manifest_digest, second.layers)
    assert save(other, "app:1", "base", form=form) == data


@pytest.mark.parametrize("form", ["docker", "oci"])
def test_skopeo_reads_it_and_we_read_what_it_makes_of_it(tmp_path: Path, images: Images, form: str) -> None:
    (tmp_path / "in.tar").write_bytes(save(images, "app:1", form=form))
    kind = f"{form}-archive"
    for target in ("oci-archive", "docker-archive"):
        out = tmp_path / f"{target}.tar"
        skopeo("copy", f"{kind}:{tmp_path}/in.tar", f"{target}:{out}:app:1")
        other = store(tmp_path / target)
        load(other, out.read_bytes())
        assert other.resolve("app:1").layers == images.resolve("app:1").layers
        assert other.resolve("app:1").process_config == images.resolve("app:1").process_config
    if form == "docker":
        assert json.loads(skopeo("inspect", f"oci-archive:{tmp_path}/in.tar"))["Layers"]


@pytest.mark.skipif(shutil.which("podman") is None, reason="NO PODMAN ON PATH: its load and save untested")
@pytest.mark.parametrize("form", ["docker", "oci"])
def test_podman_loads_it_and_we_load_what_it_saves(tmp_path: Path, images: Images, form: str) -> None:
    more = ["base"] if form == "docker" else []  # of an OCI archive podman takes one image only
    (tmp_path / "in.tar").write_bytes(save(images, "app:1", *more, form=form))
    runroot = tempfile.mkdtemp(prefix="pod-")  # podman takes no path over 50 bytes
    podman = ["podman", f"--root={tmp_path}/podman", f"--runroot={runroot}", "--storage-driver=vfs"]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}

    def run(*words: str) -> str:
        done = subprocess.run(
            [*podman, *words], check=True, capture_output=True, text=True, timeout=60, env=environment
        )
        return done.stdout

    assert "docker.io/library/app:1" in run("load", "-q", "-i", str(tmp_path / "in.tar"))
    assert run("inspect", "--format", "{{.Id}}", "app:1").strip() == images.resolve("app:1").id.removeprefix("sha256:")
    for theirs in ("docker-archive", "oci-archive"):
        run("save", "-q", "--format", theirs, "-o", str(tmp_path / f"{theirs}.tar"), "app:1")
        other = store(tmp_path / theirs)
        load(other, (tmp_path / f"{theirs}.tar").read_bytes())
        assert other.resolve("app:1").layers == images.resolve("app:1").layers
    subprocess.run([*podman, "rmi", "-fa"], capture_output=True, timeout=60, env=environment)
    shutil.rmtree(runroot, ignore_errors=True)


def test_an_image_that_is_removed_while_it_is_saved(tmp_path: Path, images: Images) -> None:
    async def body() -> bytes:
        archive, _ = images.save(["app:1"], "docker")
        await images.remove(images.resolve("app:1").id, force=True)
        return b"".join([data async for data in archive])

    expected = images.resolve("app:1")
    data = trio.run(body)
    other = store(tmp_path / "second")
    load(other, data)
    assert other.resolve("app:1").id == expected.id


def test_which_names_are_saved(images: Images) -> None:
    def tags(*names: str) -> list[Any]:
        with tarfile.open(fileobj=io.BytesIO(save(images, *names))) as tar:
            file = tar.extractfile("manifest.json")
            assert file is not None
            found = [entry["RepoTags"] for entry in json.load(file)]
            return [names and [name.removeprefix("docker.io/library/") for name in names] for names in found]

    assert tags("app:1") == [["app:1"]]
    assert tags("app") == [["app:1", "app:2"]]
    assert tags("app:2", "host:5000/team/app:x") == [["app:2", "host:5000/team/app:x"]]
    assert tags(images.resolve("app:1").id) == [None]
    assert tags("base", images.resolve("base").id[7:19]) == [["base:latest"]]
    for names, kind in ((["nothing"], NotFound), (["host"], Conflict), ([], InvalidParameter)):
        with pytest.raises(kind):
            save(images, *names)
    with pytest.raises(InvalidParameter, match="format"):
        save(images, "base", form="zip")


def test_an_image_without_layers(tmp_path: Path, images: Images) -> None:
    load(images, docker_archive([], ["empty:1"]))
    other = store(tmp_path / "second")
    load(other, save(images, "empty:1"))
    assert other.resolve("empty:1").layers == ()
    assert imported(other, BOTTOM, "full:1")


def test_who_stops_reading_leaves_no_thread(images: Images) -> None:
    import threading

    async def body() -> None:
        archive, _ = images.save(["app:1"], "docker")
        async for _ in archive:
            break
        await archive.aclose()

    before = len(os.listdir("/proc/self/fd"))
    trio.run(body)
    images.save(["app:1"], "docker")[1]()
    assert len(os.listdir("/proc/self/fd")) == before
    for thread in threading.enumerate():
        if thread.name == "save":
            thread.join(5)
            assert not thread.is_alive()


OLD = {"json": b"{}", "VERSION": b"1.0"}


def test_what_older_dockers_and_others_wrote(tmp_path: Path, images: Images) -> None:
    """Links between layers, a layer in many images, files of no meaning, the parts in any order."""
    config = config_of([BOTTOM, BOTTOM, TOP])
    manifest = json.dumps(
        [
            {"Config": "c.json", "RepoTags": ["twice:1"], "Layers": ["a/layer.tar", "b/layer.tar", "./t.tar"]},
            {"Config": "d.json", "RepoTags": None, "Layers": ["b/layer.tar"]},
        ]
    ).encode()
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in {
            "manifest.json": manifest,
            "a/VERSION": b"1.0",
            "a/json": b"{}",
            "a/layer.tar": BOTTOM,
            "t.tar": TOP,
            "junk": b"neither",
            "c.json": config,
            "d.json": config_of([BOTTOM]),
            "repositories": b"{}",
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("b/layer.tar")
        info.type, info.linkname = tarfile.SYMTYPE, "../a/layer.tar"
        tar.addfile(info)
    other = store(tmp_path / "second")
    said = load(other, made.getvalue())
    assert said[0] == "Loaded image: twice:1\n"
    assert said[1].startswith("Loaded image ID: sha256:")
    assert len(other.resolve("twice:1").layers) == 3
    assert len(list(other.layout.layers.iterdir())) == 2


def test_one_bad_image_of_several_and_none_is_loaded(tmp_path: Path) -> None:
    manifest = json.dumps(
        [
            {"Config": "c.json", "RepoTags": ["good:1"], "Layers": ["a.tar"]},
            {"Config": "d.json", "RepoTags": ["bad:1"], "Layers": ["b.tar"]},
        ]
    ).encode()
    data = tar_of(
        {
            "manifest.json": manifest,
            "a.tar": BOTTOM,
            "b.tar": b"not a tar at all" * 100,
            "c.json": config_of([BOTTOM]),
            "d.json": config_of([TOP]),
        }
    )
    images = store(tmp_path)
    with pytest.raises(InvalidParameter, match=r"b\.tar"):
        load(images, data)
    assert images.layout.entries() == []
    assert list(images.layout.layers.iterdir()) == []


def test_an_index_of_platforms(tmp_path: Path) -> None:
    images = store(tmp_path)
    archives = {}
    for architecture in ("amd64", "arm64"):
        one = store(tmp_path / architecture)
        load(one, docker_archive([BOTTOM], ["x:1"], config_of([BOTTOM], architecture=architecture)))
        archives[architecture] = one
    members: dict[str, bytes] = {}
    manifests = []
    for architecture, one in archives.items():
        image = one.resolve("x:1")
        data = one.layout.blob(image.manifest_digest)
        members[f"blobs/sha256/{image.manifest_digest[7:]}"] = data
        members[f"blobs/sha256/{image.id[7:]}"] = one.layout.blob(image.id)
        members[f"blobs/sha256/{image.layers[0][7:]}"] = BOTTOM
        platform = {"os": "linux", "architecture": architecture}
        manifests.append({"digest": image.manifest_digest, "size": len(data), "platform": platform})
    index = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    import hashlib

    digest = hashlib.sha256(index).hexdigest()
    members[f"blobs/sha256/{digest}"] = index
    entry = {"digest": f"sha256:{digest}", "annotations": {"org.opencontainers.image.ref.name": "multi:1"}}
    members["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()

    from rootless.model import platforms
    from tests.images.test_import import pieces

    async def body(platform: str) -> None:
        await images.prepare()
        await images.load(pieces(tar_of(members), 70000), lambda _: None, platforms.parse(platform))

    for architecture in ("arm64", "amd64"):
        trio.run(body, f"linux/{architecture}")
        assert images.resolve("multi:1").config["architecture"] == architecture
    with pytest.raises(NotFound, match="no matching manifest"):
        trio.run(body, "linux/s390x")
