"""`run --pull lazy`: a container reads from an image that is not here yet."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import signal
import tarfile
import time
from collections.abc import Iterator

import pytest

from tests.busybox import busybox_tar
from tests.e2e.conftest import Installation
from tests.images.chunked import estargz, zstd_chunked
from tests.images.faulty import FaultyRegistry, faulty_registry
from tests.images.registries import config_of, sha256

NOISE_BYTES = 2_000_000
ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


@pytest.fixture
def server() -> Iterator[FaultyRegistry]:
    with faulty_registry() as made:
        yield made


def add(server: FaultyRegistry, form: str) -> tuple[str, bytes, str]:
    """(name, packed layer, sha256 of /noise) of an image with busybox and a large file at its end."""
    noise = os.urandom(NOISE_BYTES)
    tar = with_noise(busybox_tar(), noise)
    if form == "zstd":
        packed, annotations = zstd_chunked(tar)
        server.add("1", [(tar, packed, ZSTD)], config_of([tar]), annotations)
    else:
        packed, annotations, plain = estargz(tar)
        server.add("1", [(plain, packed, GZIP)], config_of([plain]), annotations)
    return f"{server.address}/app:1", packed, sha256(noise)


def with_noise(tar: bytes, data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(tar)) as source, tarfile.open(fileobj=out, mode="w") as target:
        for member in source:
            target.addfile(member, source.extractfile(member) if member.isreg() else None)
        noise = tarfile.TarInfo("noise")
        noise.size = len(data)
        target.addfile(noise, io.BytesIO(data))
    return out.getvalue()


def wholes(server: FaultyRegistry, packed: bytes) -> list[str]:
    """Requests for the layer that were not for a part of it."""
    return [path for _, path, headers in server.faults.seen if sha256(packed) in path and "range" not in headers]


def wait_for_the_rest(rootless: Installation, name: str) -> None:
    until = time.monotonic() + 30
    while name not in (rootless.home / "data" / "images" / "index.json").read_text():
        assert time.monotonic() < until, "the rest did not come"
        time.sleep(0.1)


@pytest.mark.parametrize("form", ["zstd", "gzip"])
def test_it_runs_before_it_is_here(rootless: Installation, server: FaultyRegistry, form: str) -> None:
    name, packed, noise = add(server, form)
    assert rootless.out("run", "--rm", "--pull", "lazy", name, "echo", "hello") == "hello"
    in_parts = ["range" in headers for _, path, headers in server.faults.seen if sha256(packed) in path]
    assert in_parts[0]
    assert all(in_parts[:-1])  # on a slow machine the rest may have been asked for by now
    read = sum(
        int(match[2]) - int(match[1]) + 1
        for _, _, headers in server.faults.seen
        if (match := re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("range", "")))
    )
    assert read < len(packed) - NOISE_BYTES // 2  # the noise was not asked for
    assert name in rootless.out("images", "--format", "{{.Repository}}:{{.Tag}}")
    digest = rootless.out("run", "--rm", name, "sha256sum", "/noise").split()[0]
    assert f"sha256:{digest}" == noise
    wait_for_the_rest(rootless, name)
    assert len(wholes(server, packed)) == 1
    digest = rootless.out("run", "--rm", name, "sha256sum", "/noise").split()[0]
    assert f"sha256:{digest}" == noise
    rootless("rmi", name)


def test_one_that_runs_goes_on_without_the_registry_when_all_is_here(
    rootless: Installation, server: FaultyRegistry, name: str
) -> None:
    image, _, noise = add(server, "zstd")
    rootless("run", "-d", "--name", name, "--pull", "lazy", image, "sleep", "1000")
    wait_for_the_rest(rootless, image)
    until = time.monotonic() + 10
    while list((rootless.home / "state" / "lazy").glob("pull-*")):
        assert time.monotonic() < until
        time.sleep(0.05)
    server.faults.statuses = [(404, {})] * 100
    digest = rootless.out("exec", name, "sha256sum", "/noise").split()[0]
    assert f"sha256:{digest}" == noise
    rootless("rm", "-f", name)
    rootless("rmi", image)


def test_a_chunk_that_is_damaged_is_never_read(rootless: Installation, server: FaultyRegistry, name: str) -> None:
    image, packed, noise = add(server, "zstd")
    rootless("run", "-d", "--name", name, "--pull", "lazy", image, "sleep", "1000")
    middle = len(packed) - NOISE_BYTES // 2
    server.faults.damage = lambda data: data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    failed = rootless("exec", name, "sha256sum", "/noise", check=1)
    assert b"Input/output error" in failed.stderr
    server.faults.damage = None
    digest = rootless.out("exec", name, "sha256sum", "/noise").split()[0]
    assert f"sha256:{digest}" == noise
    rootless("rm", "-f", name)
    rootless("rmi", image)


def runs(pid: int) -> bool:
    """Not where it is gone, nor where it is dead and process 1 does not care (a container without an init)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_another_engine_goes_on(rootless: Installation, server: FaultyRegistry, name: str) -> None:
    image, _, noise = add(server, "zstd")
    rootless("run", "-d", "--name", name, "--pull", "lazy", image, "sleep", "1000")
    engine = int((rootless.home / "state" / "engine.lock").read_text().split()[0])
    os.kill(engine, signal.SIGKILL)
    while runs(engine):
        time.sleep(0.01)
    digest = rootless.out("exec", name, "sha256sum", "/noise").split()[0]
    assert f"sha256:{digest}" == noise
    wait_for_the_rest(rootless, image)
    rootless("rm", "-f", name)
    rootless("rmi", image)


def test_one_that_can_never_be_here_is_given_up_and_told_of(
    rootless: Installation, server: FaultyRegistry, name: str
) -> None:
    """Podman 4.3.1 and skopeo 1.9.3 leave the tar's padding out: each chunk is good, the diff id is not."""
    noise = os.urandom(NOISE_BYTES)
    tar = with_noise(busybox_tar(), noise)
    packed, annotations = zstd_chunked(tar)
    server.add("1", [(tar, packed, ZSTD)], config_of([tar + bytes(512)]), annotations)
    image = f"{server.address}/app:1"
    rootless("run", "-d", "--name", name, "--pull", "lazy", image, "sleep", "1000")
    until = time.monotonic() + 20
    record = next((rootless.home / "state" / "lazy").glob("pull-*"))
    while not json.loads(record.read_text()).get("failed"):
        assert time.monotonic() < until, "it is not given up"
        time.sleep(0.1)
    said = f"the image {image} cannot be pulled as a whole"
    assert said in rootless("create", "--name", f"{name}-2", image).stderr.decode()
    assert said in rootless("system", "check", check=1).stdout.decode()
    events = rootless.out("events", "--since", "1h", "--until", "0s", "-f", "event=pull-failed")
    assert image in events
    assert len(wholes(server, packed)) == 1
    engine = int((rootless.home / "state" / "engine.lock").read_text().split()[0])
    os.kill(engine, signal.SIGKILL)
    while runs(engine):
        time.sleep(0.01)
    assert rootless.out("exec", name, "sha256sum", "/noise").split()[0] == sha256(noise).removeprefix("sha256:")
    assert said in rootless("system", "check", check=1).stdout.decode()  # the next engine knows
    assert len(wholes(server, packed)) == 1
    rootless("rm", "-f", name, f"{name}-2")
    rootless("rmi", image)
    assert rootless.out("system", "check").endswith("no problems")
    assert not record.exists()


def test_what_is_here_under_another_name_runs_under_the_new_one(
    rootless: Installation, server: FaultyRegistry, name: str
) -> None:
    image, _, _ = add(server, "zstd")
    rootless("pull", image)
    rootless("tag", image, f"{name}:1")
    rootless("rmi", image)
    assert rootless.out("run", "--rm", "--pull", "lazy", image, "echo", "hello") == "hello"
    wait_for_the_rest(rootless, image)
    rootless("rmi", image, f"{name}:1")


def test_two_names_of_one_image_that_is_on_its_way(rootless: Installation, server: FaultyRegistry) -> None:
    one, _, _ = add(server, "zstd")
    server.manifests["2"] = server.manifests["1"]
    two = one.replace("app:1", "app:2")
    for image in (one, two):
        assert rootless.out("run", "--rm", "--pull", "lazy", image, "echo", "hello") == "hello"
    for image in (one, two):
        assert rootless.out("run", "--rm", "--pull", "never", image, "echo", "hello") == "hello"
    for image in (one, two):
        wait_for_the_rest(rootless, image)
    rootless("rmi", one, two)


def test_one_on_its_way_that_is_here_as_well_is_removed_from_both(
    rootless: Installation, server: FaultyRegistry
) -> None:
    name, _, _ = add(server, "zstd")
    rootless("run", "--rm", "--pull", "lazy", name, "true")
    rootless("pull", name)
    rootless("rmi", name)
    assert rootless.out("images", "-q", name) == ""
    rootless("pull", name)
    server.manifests["2"] = server.manifests["1"]
    other = name.replace("app:1", "app:2")
    rootless("run", "--rm", "--pull", "lazy", other, "true")
    assert rootless.out("rmi", other) == f"Untagged: {other}"
    assert rootless.out("images", "-q", name) != ""
    rootless("rmi", name)


def test_one_on_its_way_that_a_container_needs_is_not_removed(
    rootless: Installation, server: FaultyRegistry, name: str
) -> None:
    image, _, _ = add(server, "zstd")
    rootless("run", "-d", "--name", name, "--pull", "lazy", image, "sleep", "60")
    assert b"(must force)" in rootless("rmi", image, check=1).stderr
    rootless("restart", "-t", "0", name)
    rootless("rm", "-f", name)
    rootless("rmi", image)


@pytest.mark.parametrize("rule", ['deny = ["*/app"]', 'allow = ["*/other"]'])
def test_what_the_policy_refuses_is_not_even_asked_for(fresh: Installation, server: FaultyRegistry, rule: str) -> None:
    name, _, _ = add(server, "zstd")
    (fresh.home / "config.toml").write_text(f"[policy]\n{rule}\n")
    for words in (["run", "--rm", "--pull", "lazy", name, "true"], ["pull", "-a", name.removesuffix(":1")]):
        assert b"is refused by policy" in fresh(*words, check=None).stderr
    assert server.faults.seen == []


def test_what_has_no_table_is_pulled_as_a_whole(rootless: Installation, server: FaultyRegistry) -> None:
    tar = with_noise(busybox_tar(), os.urandom(1000))
    packed = gzip.compress(tar)
    server.add("1", [(tar, packed, GZIP)])
    name = f"{server.address}/app:1"
    assert rootless.out("run", "--rm", "--pull", "lazy", name, "echo", "hello") == "hello"
    assert len(wholes(server, packed)) == 1
    rootless("rmi", name)
