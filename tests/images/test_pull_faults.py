"""Pulls that go wrong: what can be taken up again is, what cannot leaves nothing visible and nothing behind."""

from __future__ import annotations

import errno
import gzip
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import zstandard

from rootless.images import pulling
from rootless.images.images import Images
from rootless.model import reference
from rootless.model.errors import InvalidParameter, NotFound, RootlessError
from rootless.registry.access import Access
from rootless.registry.configuration import RegistryRules
from tests.images.faulty import Faults, FaultyRegistry, faulty_registry
from tests.images.registries import sha256, tar_of
from tests.images.test_import import everything, store

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
PLAIN = "application/vnd.oci.image.layer.v1.tar"
BIG = tar_of({"noise": random.Random(1).randbytes(1_500_000), "zeros": bytes(500_000)})
SMALL = tar_of({"small": b"small"})
QUICK = Access(backoff_seconds=0.001, attempts=4, read_seconds=5)


def pull(images: Images, name: str, access: Access = QUICK, auth: dict[str, str] | None = None) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []

    async def body() -> None:
        await images.prepare()
        await pulling.pull_image(images.layout, access, reference.parse(name), None, auth, messages.append)

    trio.run(body)
    return messages


def big(server: FaultyRegistry, kind: str = GZIP) -> tuple[str, bytes]:
    """(name of an image with a large and a small layer, the large one packed)."""
    pack: Callable[[bytes], bytes] = {GZIP: gzip.compress, ZSTD: zstandard.compress, PLAIN: bytes}[kind]
    packed = pack(BIG)
    server.add("1", [(BIG, packed, kind), (SMALL, gzip.compress(SMALL), GZIP)])
    return f"{server.address}/app:1", packed


def assert_whole(images: Images, name: str) -> None:
    layers = images.resolve(name).layers
    assert (images.layout.layer(layers[0]) / "layer.tar").read_bytes() == BIG
    assert not list(images.layout.temporary.iterdir())


@pytest.mark.parametrize("kind", [GZIP, ZSTD, PLAIN])
def test_a_connection_cut_at_every_tenth_is_taken_up_where_it_broke(tmp_path: Path, kind: str) -> None:
    with faulty_registry() as server:
        name, packed = big(server, kind)
        tenth = len(packed) // 10
        server.faults.cut_after = [tenth] * 9
        images = store(tmp_path)
        pull(images, name)
        assert_whole(images, name)
        ranges = [headers.get("range") for _, path, headers in server.faults.seen if sha256(packed) in path]
        assert ranges == [None, *(f"bytes={tenth * number}-" for number in range(1, 10))]


def test_a_server_without_ranges_is_read_again_from_the_start(tmp_path: Path) -> None:
    with faulty_registry(Faults(ranges=False)) as server:
        name, packed = big(server)
        server.faults.cut_after = [len(packed) // 3, len(packed) // 2]
        images = store(tmp_path)
        pull(images, name)
        assert_whole(images, name)


@pytest.mark.parametrize(
    "faults",
    [
        Faults(damage=lambda data: data[:-1]),
        Faults(damage=lambda data: data + b"x"),
        Faults(damage=lambda data: data[: len(data) // 2] + b"x" + data[len(data) // 2 + 1 :]),
        Faults(damage=lambda data: gzip.compress(BIG, 1)),
        Faults(announce=lambda size: size - 1000),
        Faults(damage=lambda data: b"\x1f\x8b" + data[1:-1]),
    ],
    ids=["short", "long", "flipped", "another", "announced short", "corrupt gzip"],
)
def test_a_blob_that_is_not_what_it_should_be_leaves_nothing(tmp_path: Path, faults: Faults) -> None:
    with faulty_registry(faults) as server:
        name, _ = big(server)
        images = store(tmp_path)
        trio.run(images.prepare)
        before = everything(tmp_path)
        with pytest.raises((InvalidParameter, RootlessError)):
            pull(images, name)
        assert images.layout.entries() == []
        left = {path for path in everything(tmp_path) - before if "tmp/" in path or "layers/" in path}
        assert not {
            path for path in left if "packed" not in path and ".lock" not in path and not path.endswith("0")
        } - {path for path in left if path.count("/") <= 2}
        server.faults.damage = server.faults.announce = None
        pull(images, name)
        assert_whole(images, name)


@pytest.mark.parametrize("kind", [GZIP, ZSTD, PLAIN])
def test_a_damaged_layer_is_named_with_its_registry(tmp_path: Path, kind: str) -> None:
    with faulty_registry(Faults(damage=lambda data: data[:100] + bytes(range(200)) + data[300:])) as server:
        name, packed = big(server, kind)
        with pytest.raises(InvalidParameter) as refused:
            pull(store(tmp_path), name)
        assert server.address in refused.value.message
        assert sha256(packed) in refused.value.message


def test_a_configuration_that_is_here_is_not_fetched_again(tmp_path: Path) -> None:
    with faulty_registry() as server:
        name, _ = big(server)
        images = store(tmp_path)
        pull(images, name)
        server.faults.seen.clear()
        pull(images, name)
        assert server.faults.paths("/blobs/") == []
        assert len(server.faults.seen) == len(server.faults.paths("/manifests/")) == 1
        config = images.layout.blob_path(images.resolve(name).id)
        config.write_bytes(b"{}")
        pull(images, name)
        assert server.faults.paths("/blobs/") == [f"/v2/app/blobs/sha256:{config.name}"]


def test_a_layer_that_is_here_is_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be many gigabytes: it is asked for as any other, and refused as that."""
    with faulty_registry() as server:
        name, _ = big(server)
        images = store(tmp_path)
        pull(images, name)
        config = server.manifests["1"].replace(images.resolve(name).id.encode(), sha256(BIG).encode())
        server.manifests["2"] = server.manifests[sha256(config)] = config
        monkeypatch.setattr(images.layout, "blob", None)
        with pytest.raises(NotFound, match=sha256(BIG)):
            pull(images, f"{server.address}/app:2")
        server.blobs[sha256(BIG)] = BIG
        with pytest.raises(InvalidParameter, match="configuration"):
            pull(images, f"{server.address}/app:2")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_too_many_requests_and_failures_that_pass_are_waited_for(tmp_path: Path, status: int) -> None:
    with faulty_registry() as server:
        name, _ = big(server)
        server.faults.statuses = [(status, {"Retry-After": "0"})] * 3
        images = store(tmp_path)
        pull(images, name)
        assert_whole(images, name)
        server.faults.statuses = [(status, {})] * 30
        with pytest.raises(RootlessError, match=str(status)):
            pull(store(tmp_path / "other"), name)


def test_a_token_that_expires_in_the_middle(tmp_path: Path) -> None:
    with faulty_registry(Faults(token_uses=2)) as server:
        name, packed = big(server)
        server.faults.cut_after = [len(packed) // 4] * 3
        images = store(tmp_path)
        pull(images, name)
        assert_whole(images, name)
        assert len(server.faults.paths("/token")) >= 3


def test_credentials_do_not_follow_a_redirect_to_another_host(tmp_path: Path) -> None:
    with faulty_registry() as elsewhere, faulty_registry(Faults(token_uses=100)) as server:
        name, packed = big(server)
        elsewhere.blobs = server.blobs
        server.faults.redirect_blobs_to = f"http://{elsewhere.address}"
        elsewhere.faults.cut_after = [len(packed) // 2]
        images = store(tmp_path)
        pull(images, name, auth={"username": "user", "password": "secret"})
        assert_whole(images, name)
        assert len(elsewhere.faults.seen) == 2
        assert not [headers for _, _, headers in elsewhere.faults.seen if "authorization" in headers]
        assert [headers for _, path, headers in server.faults.seen if "/blobs/" in path and "authorization" in headers]


def test_foreign_layers_are_refused_by_name(tmp_path: Path) -> None:
    with faulty_registry() as server:
        packed = gzip.compress(SMALL)
        server.add("1", [(SMALL, packed, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")])
        with pytest.raises(InvalidParameter, match=f"layer {sha256(packed)} is a foreign layer"):
            pull(store(tmp_path), f"{server.address}/app:1")


def test_a_hundred_layers(tmp_path: Path) -> None:
    layers = [tar_of({f"file{number}": b"%d" % number}) for number in range(100)]
    with faulty_registry() as server:
        server.add("1", [(layer, gzip.compress(layer), GZIP) for layer in layers])
        images = store(tmp_path)
        pull(images, f"{server.address}/app:1")
        assert len(images.resolve(f"{server.address}/app:1").layers) == 100


def test_two_pulls_at_once_share_their_layers_and_wait_for_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "LAYERS_AT_ONCE", 1)
    layers = [(tar, gzip.compress(tar), GZIP) for tar in (BIG, SMALL)]
    images = store(tmp_path)
    with faulty_registry() as server:
        server.add("1", layers)
        server.add("2", layers[::-1])

        async def pull_one(tag: str) -> None:
            wanted = reference.parse(f"{server.address}/app:{tag}")
            await pulling.pull_image(images.layout, QUICK, wanted, None, None, lambda message: None)

        async def both() -> None:
            await images.prepare()
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pull_one, "1")
                    nursery.start_soon(pull_one, "2")

        trio.run(both)
        assert len(server.faults.paths(sha256(layers[0][1]))) == 1
        assert len(images.layout.entries()) == 2
        assert not list(images.layout.temporary.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) > 1000 and "layer.tar" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    with faulty_registry() as server:
        name, _ = big(server)
        images = store(tmp_path)
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(RootlessError, match="No space left on device"):
            pull(images, name)
        assert images.layout.entries() == []
        assert not list(images.layout.temporary.iterdir())


def test_mirrors_are_asked_first_and_get_no_credentials(tmp_path: Path) -> None:
    with faulty_registry() as mirror, faulty_registry() as server:
        name, packed = big(server)
        rules = {server.address: RegistryRules(mirrors=(mirror.address,))}
        access = Access(rules=rules, backoff_seconds=0.001, attempts=2)
        images = store(tmp_path)
        said = pull(images, name, access)
        assert any(f"Mirror {mirror.address}: manifest for" in message["status"] for message in said)
        mirror.blobs, mirror.manifests = server.blobs, server.manifests
        server.faults.seen.clear()
        mirror.faults.token_uses = 100
        pull(store(tmp_path / "other"), name, access, {"username": "user", "password": "secret"})
        assert server.faults.seen == []
        assert not [h for _, path, h in mirror.faults.seen if "token" in path and "authorization" in h]
        assert mirror.faults.paths(sha256(packed))


def test_an_unknown_tag_in_docker_s_words(tmp_path: Path) -> None:
    with faulty_registry() as server, pytest.raises(NotFound) as refused:
        pull(store(tmp_path), f"{server.address}/app:none")
    assert (
        refused.value.message == f"manifest for {server.address}/app:none not found: manifest unknown: manifest unknown"
    )


def test_an_unreachable_host_is_named_with_its_proxy(tmp_path: Path) -> None:
    access = Access(environment={"HTTPS_PROXY": "http://someone:secret@127.0.0.1:1"}, backoff_seconds=0.001)
    with pytest.raises(RootlessError) as refused:
        pull(store(tmp_path), "registry.example/app", access)
    assert refused.value.message.startswith(
        "cannot reach the registry registry.example (through the proxy http://127.0.0.1:1): "
    )
    assert "secret" not in refused.value.message


def test_a_proxy_that_answers_in_a_registry_s_stead_is_named(tmp_path: Path) -> None:
    with faulty_registry() as server:
        server.faults.statuses = [(502, {})] * 100
        access = Access(
            environment={"http_proxy": f"http://someone:secret@{server.address}"},
            insecure=frozenset({"registry.example:1"}),
            backoff_seconds=0.001,
            attempts=1,
            found={"registry.example:1": "http"},
        )
        with pytest.raises(RootlessError) as refused:
            pull(store(tmp_path), "registry.example:1/app", access)
    assert f"registry.example:1 (through the proxy http://{server.address}) answered 502" in refused.value.message


def test_a_registry_that_sends_no_manifest_is_named(tmp_path: Path) -> None:
    with faulty_registry() as server:
        server.manifests["1"] = b"<html>Log in to the hotel's network</html>"
        with pytest.raises(InvalidParameter, match=f"the manifest that {server.address} sent is not valid JSON"):
            pull(store(tmp_path), f"{server.address}/app:1")


def test_a_port_that_is_none_is_said_to_be_that(tmp_path: Path) -> None:
    with pytest.raises(RootlessError, match="is no address: Port out of range"):
        pull(store(tmp_path), "localhost:99999/app")


_PULLER = """
import sys, trio
from rootless.images import pulling
from rootless.model import reference
from rootless.registry.access import Access
from rootless.store.layout import Layout
from pathlib import Path
layout = Layout(Path(sys.argv[1]))
layout.prepare()
trio.run(pulling.pull_image, layout, Access(), reference.parse(sys.argv[2]), None, None, lambda message: None)
"""
KILLS = int(os.environ.get("ROOTLESS_TEST_KILLS", "8"))


@pytest.mark.timeout(600 + 10 * KILLS)
@pytest.mark.parametrize("kind", [GZIP, PLAIN])
def test_killed_at_any_moment(tmp_path: Path, kind: str) -> None:
    """ROOTLESS_TEST_KILLS=200 for the long run."""
    chance = random.Random(7)
    with faulty_registry() as server:
        name, _ = big(server, kind)
        images = store(tmp_path)
        trio.run(images.prepare)
        command = [sys.executable, "-c", _PULLER, str(images.layout.root), name]
        begun = time.monotonic()
        subprocess.run(command, check=True, timeout=60)
        whole = time.monotonic() - begun
        for _ in range(KILLS):
            _forget(images)
            process = subprocess.Popen(command)
            try:
                process.wait(chance.uniform(0, whole))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
            process.wait()
            for image in images.all():
                for layer in image.layers:
                    assert sha256((images.layout.layer(layer) / "layer.tar").read_bytes()) == layer
        subprocess.run(command, check=True, timeout=60)
        trio.run(images.prepare)
        assert_whole(images, name)


def _forget(images: Images) -> None:
    """Now and then begin from nothing."""
    if images.layout.entries():

        async def remove() -> None:
            for image in images.all():
                if image.names and not images.is_host(image):
                    await images.remove(image.names[0], force=True)

        trio.run(remove)


def test_a_leftover_of_a_layer_that_is_here_goes_with_the_next_pull(tmp_path: Path) -> None:
    with faulty_registry() as server:
        name, packed = big(server)
        images = store(tmp_path)
        trio.run(images.prepare)
        pull(images, name)
        leftover = images.layout.temporary / f"layer-{sha256(packed).removeprefix('sha256:')}"
        leftover.mkdir()
        (leftover / ".lock").touch()
        pull(images, name)
        assert_whole(images, name)
