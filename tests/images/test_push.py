"""Pushing to a real registry server, and to one that breaks off."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from rootless.images.image import Image
from rootless.images.images import Images
from rootless.images.pulling import pull_image
from rootless.images.pushing import push_image
from rootless.model import reference
from rootless.model.errors import Forbidden, RootlessError
from rootless.registry.access import Access
from tests.images.faulty import send
from tests.images.registries import PASSWORD, USER, docker_archive, push, registry, sha256, token_server
from tests.images.test_import import imported, store
from tests.images.test_pull_faults import BIG, SMALL

QUICK = Access(backoff_seconds=0.001, attempts=4)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    directory = tmp_path_factory.mktemp("registry")
    with registry(directory) as address:
        yield address, directory


def send_image(images: Images, name: str, auth: dict[str, str] | None = None) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    wanted = reference.parse(name)
    trio.run(push_image, images.layout, QUICK, images.resolve(name), wanted, auth, messages.append)
    return messages


def get_image(images: Images, name: str, auth: dict[str, str] | None = None) -> Image:
    async def body() -> None:
        await images.prepare()
        await pull_image(images.layout, QUICK, reference.parse(name), None, auth, lambda message: None)

    trio.run(body)
    return images.resolve(name)


def digest_of(messages: list[dict[str, Any]]) -> str:
    return next(str(message["aux"]["Digest"]) for message in messages if "aux" in message)


def said(messages: list[dict[str, Any]]) -> list[str]:
    return [str(message.get("status")) for message in messages if not message.get("progressDetail")]


def tag(images: Images, old: str, new: str) -> None:
    repository, _, word = new.rpartition(":")
    trio.run(images.tag, images.resolve(old), repository, word, old)


def test_digests_stay_from_push_to_pull_to_push(tmp_path: Path, server: tuple[str, Path]) -> None:
    first, name = store(tmp_path / "first"), f"{server[0]}/push/one:1"
    imported(first, BIG, name)
    sent = send_image(first, name)
    assert said(sent)[0] == f"The push refers to repository [{server[0]}/push/one]"
    assert "Pushed" in said(sent)
    assert "Layer already exists" in said(send_image(first, name))
    second = store(tmp_path / "second")
    image = get_image(second, name)
    assert image.id == first.resolve(name).id
    assert image.digests == first.resolve(name).digests == (f"{server[0]}/push/one@{digest_of(sent)}",)
    tag(second, name, f"{server[0]}/push/two:1")
    mounted = send_image(second, f"{server[0]}/push/two:1")
    assert "Mounted from push/one" in said(mounted)
    assert digest_of(mounted) == digest_of(sent)
    third = store(tmp_path / "third")  # packs it again by itself
    imported(third, BIG, f"{server[0]}/push/three:1")
    layer = send_image(third, f"{server[0]}/push/three:1")
    manifest = fetched(server[0], "push/three", digest_of(layer))
    assert [one["digest"] for one in manifest["layers"]] == [
        one["digest"] for one in fetched(server[0], "push/one", digest_of(sent))["layers"]
    ]


def fetched(address: str, repository: str, digest: str) -> dict[str, Any]:
    kind = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
    request = urllib.request.Request(f"http://{address}/v2/{repository}/manifests/{digest}", headers={"Accept": kind})
    with urllib.request.urlopen(request) as answer:
        return dict(json.loads(answer.read()))


def test_skopeo_s_image_goes_on_with_its_digest_and_ours_is_read_by_skopeo(
    tmp_path: Path, server: tuple[str, Path]
) -> None:
    push(docker_archive([BIG, SMALL], ["x:1"]), f"{server[0]}/skopeo/app:1", tmp_path)
    images, name = store(tmp_path), f"{server[0]}/skopeo/app:1"
    image = get_image(images, name)
    tag(images, name, f"{server[0]}/copied/app:1")
    sent = send_image(images, f"{server[0]}/copied/app:1")
    assert f"{server[0]}/skopeo/app@{digest_of(sent)}" in image.digests
    again = ["skopeo", "copy", "-q", "--insecure-policy", "--src-tls-verify=false", "--src-no-creds"]
    subprocess.run([*again, f"docker://{server[0]}/copied/app:1", f"dir:{tmp_path}/dir"], check=True, timeout=60)
    # to where nothing of it is: packed by us, so that the manifest is another
    other = tmp_path / "other"
    other.mkdir()
    with registry(other) as address:
        tag(images, name, f"{address}/app:1")
        sent = send_image(images, f"{address}/app:1")
        assert said(sent).count("Pushed") == 2
        subprocess.run([*again, f"docker://{address}/app:1", f"dir:{tmp_path}/dir2"], check=True, timeout=60)
        config = fetched(address, "app", digest_of(sent))["config"]["digest"]
        assert config == image.id
        assert get_image(store(tmp_path / "fresh"), f"{address}/app:1").id == image.id


def test_rights(tmp_path: Path) -> None:
    images = store(tmp_path / "store")
    with token_server(tmp_path) as tokens, registry(tmp_path, tokens=tokens) as address:
        imported(images, SMALL, f"{address}/team/app:1")
        with pytest.raises(Forbidden) as refused:
            send_image(images, f"{address}/team/app:1")
        assert refused.value.message == "unauthorized: authentication required"
        send_image(images, f"{address}/team/app:1", {"username": USER, "password": PASSWORD})
        tag(images, f"{address}/team/app:1", f"{address}/other/app:1")
        sent = send_image(images, f"{address}/other/app:1", {"username": USER, "password": PASSWORD})
        assert "Mounted from team/app" in said(sent)


class Uploading:
    """Takes uploads; `cuts` are bytes after which the connection ends, of each PATCH in turn."""

    def __init__(self, cuts: list[int], keeps: bool) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.patches: list[str] = []
        self._parts: dict[str, bytearray] = {}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                send(self, 200 if self.path.rpartition("/")[2] in outer.blobs else 404, {}, b"")

            def do_POST(self) -> None:
                name = f"/v2/app/blobs/uploads/{len(outer._parts)}"
                outer._parts[name] = bytearray()
                send(self, 202, {"Location": name}, b"")

            def do_GET(self) -> None:
                part = outer._parts.get(self.path)
                if not keeps or part is None:
                    send(self, 404, {}, b"{}")
                else:
                    send(self, 204, {"Location": self.path, "Range": f"0-{max(0, len(part) - 1)}"}, b"")

            def do_PATCH(self) -> None:
                outer.patches.append(self.headers.get("Content-Range", "whole"))
                length = int(self.headers["Content-Length"])
                cut = cuts.pop(0) if cuts else length
                outer._parts[self.path] += self.rfile.read(min(cut, length))
                if cut < length:
                    self.connection.close()
                    self.close_connection = True
                    return
                send(self, 202, {"Location": self.path}, b"")

            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if "/manifests/" in self.path:
                    outer.manifests[self.path.rpartition("/")[2]] = body
                    send(self, 201, {}, b"")
                    return
                path, _, digest = self.path.partition("?digest=")
                data = bytes(outer._parts[path])
                good = sha256(data) == digest.replace("%3A", ":")
                outer.blobs[sha256(data)] = data
                send(self, 201 if good else 400, {}, b"{}")

            def log_message(self, *words: object) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def uploading(cuts: list[int], keeps: bool) -> Iterator[Uploading]:
    server = Uploading(cuts, keeps)
    try:
        yield server
    finally:
        server.close()


@pytest.mark.parametrize("keeps", [True, False])
def test_an_upload_that_breaks_goes_on_where_it_broke_or_begins_anew(tmp_path: Path, keeps: bool) -> None:
    images = store(tmp_path)
    with uploading([300_000, 400_000], keeps) as server:
        name = f"{server.address}/app:1"
        imported(images, BIG, name)
        send_image(images, name)
        assert server.patches[0] == "whole"
        assert len(server.patches) in (3, 4)  # and the configuration's
        resumed = [re.fullmatch(r"(\d+)-\d+", text) for text in server.patches if text != "whole"]
        assert [match and match[1] for match in resumed] == (["300000", "700000"] if keeps else [])
        manifest = json.loads(server.manifests["1"])
        for blob in (manifest["config"], *manifest["layers"]):
            assert len(server.blobs[blob["digest"]]) == blob["size"]


def test_an_upload_that_always_breaks_says_so(tmp_path: Path) -> None:
    images = store(tmp_path)
    with uploading([0] * 100, True) as server:
        imported(images, BIG, f"{server.address}/app:1")
        with pytest.raises(RootlessError, match="cannot reach the registry"):
            send_image(images, f"{server.address}/app:1")
        assert not server.manifests
    assert not list(images.layout.temporary.iterdir())
