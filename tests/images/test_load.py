"""Loading archives: what docker, skopeo and others write, and damaged ones."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path

import pytest
import trio

from rootless.images.images import Images
from rootless.model.errors import InvalidParameter, RootlessError
from tests.images.registries import config_of, docker_archive, tar_of
from tests.images.test_import import everything, pieces, store
from tests.images.test_pull import BOTTOM, TOP


def load(images: Images, data: bytes) -> list[str]:
    said: list[str] = []

    async def body() -> None:
        await images.prepare()
        await images.load(pieces(data, 70000), lambda message: said.append(message["stream"]))

    trio.run(body)
    return said


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_what_docker_saves(tmp_path: Path, pack: type[bytes]) -> None:
    images = store(tmp_path)
    assert load(images, pack(docker_archive([BOTTOM, TOP], ["app:1", "app:2"]))) == [
        "Loaded image: app:1\n",
        "Loaded image: app:2\n",
    ]
    assert images.resolve("app:1").id == images.resolve("app:2").id
    assert len(images.source(images.resolve("app:1")).layers) == 2


def test_without_a_name(tmp_path: Path) -> None:
    images = store(tmp_path)
    (said,) = load(images, docker_archive([BOTTOM], []))
    assert images.resolve(said.removeprefix("Loaded image ID: ").strip()).names == ()


def test_what_skopeo_writes(tmp_path: Path) -> None:
    """An OCI layout in a tar, its layers compressed."""
    (tmp_path / "in.tar").write_bytes(docker_archive([BOTTOM, TOP], ["x:1"]))
    target = f"oci-archive:{tmp_path}/out.tar:made:1"
    subprocess.run(
        ["skopeo", "copy", "--insecure-policy", f"docker-archive:{tmp_path}/in.tar", target],
        check=True,
        capture_output=True,
        timeout=60,
    )
    images = store(tmp_path / "store")
    load(images, (tmp_path / "out.tar").read_bytes())
    plain = store(tmp_path / "plain")
    load(plain, docker_archive([BOTTOM, TOP], ["x:1"]))
    assert images.all()[0].layers == plain.all()[0].layers
    assert "made:1" in images.all()[0].repo_tags


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a tar at all" * 100,
        tar_of({"other": b""}),
        tar_of({"manifest.json": b"[1]"}),
        tar_of({"manifest.json": b"[" * 100000}),
        tar_of({"manifest.json": json.dumps([{"Config": "/etc/passwd", "Layers": []}]).encode()}),
        tar_of({"index.json": b'{"manifests": [{"digest": "sha256:../../../../etc/passwd"}]}'}),
        docker_archive([BOTTOM], ["UPPER:1"]),
        docker_archive([BOTTOM], ["x:1"], config_of([TOP])),
        docker_archive([BOTTOM], ["x:1"], config_of([BOTTOM, TOP])),
        docker_archive([BOTTOM], ["x:1"], config_of([], rootfs={"diff_ids": ["sha256:x"]})),
        docker_archive([BOTTOM], ["x:1"], config_of([BOTTOM], config=[])),
        docker_archive([BOTTOM], ["x:1"], config_of([BOTTOM], config={"Labels": {"a": 1}})),
        docker_archive([BOTTOM], ["x:1"], config_of([BOTTOM], config={"Env": "A=b"})),
        docker_archive([BOTTOM], ["x:1"], config_of([BOTTOM], history=[None])),
        docker_archive([BOTTOM], ["x:1"], config_of([BOTTOM], created=7)),
        docker_archive([BOTTOM, TOP], ["x:1"])[:-30000],
        gzip.compress(docker_archive([BOTTOM], ["x:1"]))[:-20],
    ],
)
def test_bad_archives_leave_nothing(tmp_path: Path, data: bytes) -> None:
    images = store(tmp_path)
    trio.run(images.prepare)
    before = everything(tmp_path)
    with pytest.raises((InvalidParameter, RootlessError)):
        load(images, data)
    assert everything(tmp_path) - before <= {"data/images/lock"}
    assert images.layout.entries() == []
