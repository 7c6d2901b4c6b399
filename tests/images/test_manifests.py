"""One image that registries have under several manifests: each of its names keeps the one it was pulled with."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trio
import zstandard

from rootless.images.images import Images
from rootless.model.errors import NotFound
from rootless.registry.media import MANIFESTS
from rootless.settings import Settings
from rootless.store.layout import hex_of
from tests.images.registries import docker_archive, put_image, registry
from tests.images.test_checking import check
from tests.images.test_import import imported, store
from tests.images.test_load import load
from tests.images.test_pull import BOTTOM, TOP, pull
from tests.images.test_push import digest_of, said, send_image, tag

AS_GZIP = [(tar, gzip.compress(tar, mtime=0), "gzip") for tar in (BOTTOM, TOP)]
AS_ZSTD = [(tar, zstandard.compress(tar), "zstd") for tar in (BOTTOM, TOP)]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


def served(address: str, repository: str, tag: str) -> str:
    """The digest of what a registry has under a tag."""
    url = f"http://{address}/v2/{repository}/manifests/{tag}"
    return httpx.head(url, headers={"Accept": ",".join(MANIFESTS)}).raise_for_status().headers["Docker-Content-Digest"]


def has(images: Images, digest: str) -> bool:
    return (images.layout.blobs / hex_of(digest)).exists()


def remove(images: Images, name: str) -> None:
    trio.run(lambda: images.remove(name, force=False))


@pytest.mark.parametrize("zstd_first", [True, False])
def test_each_name_has_its_own(tmp_path: Path, address: str, zstd_first: bool) -> None:
    zstd = put_image(address, "own/zstd", "1", AS_ZSTD)
    gzipped = put_image(address, "own/gzip", "1", AS_GZIP)
    names = {f"{address}/own/zstd:1": zstd, f"{address}/own/gzip:1": gzipped}
    images, other = store(tmp_path), Images(Settings(tmp_path / "data", tmp_path / "elsewhere", tmp_path / "run2"))
    for name in sorted(names, reverse=zstd_first):
        pull(images, name)
    for engine in (images, other):
        image = engine.resolve(f"{address}/own/zstd:1")
        assert set(image.digests) == {f"{name[:-2]}@{digest}" for name, digest in names.items()}
        assert {engine.resolve(digest).id for digest in image.digests} == {image.id}
    assert check(images) == []
    for name, digest in names.items():
        sent = send_image(images, name)
        assert said(sent).count("Layer already exists") == 2
        assert digest_of(sent) == digest == served(address, name.split("/", 1)[1][:-2], "1")
    remove(other, f"{address}/own/zstd:1")
    assert images.resolve(f"{address}/own/gzip:1").digests == (f"{address}/own/gzip@{gzipped}",)
    assert has(images, gzipped)
    assert not has(images, zstd)
    assert check(images) == []
    remove(images, f"{address}/own/gzip:1")
    assert list(images.layout.blobs.iterdir()) == []


def test_one_that_is_pulled_by_its_digest_stands_beside_the_names(tmp_path: Path, address: str) -> None:
    zstd = put_image(address, "beside/zstd", "1", AS_ZSTD)
    gzipped = put_image(address, "beside/gzip", "1", AS_GZIP)
    images, name, digest = store(tmp_path), f"{address}/beside/zstd:1", f"{address}/beside/gzip@{gzipped}"
    for order in ((name, digest, digest), (digest, name, name)):
        for text in order:
            pull(images, text)
        image = images.resolve(name)
        assert image.names == (name,)
        assert set(image.digests) == {f"{address}/beside/zstd@{zstd}", digest}
        assert images.resolve(digest).id == image.id
        assert digest_of(send_image(images, name)) == zstd
        assert len(images.layout.entries()) == 2
        assert check(images) == []
        trio.run(images.tag, image, f"{address}/beside/new", "1", digest)
        assert digest_of(send_image(images, f"{address}/beside/new:1")) == gzipped
        for text in (f"{address}/beside/new:1", name, digest):
            remove(images, text)
        assert list(images.layout.blobs.iterdir()) == []


def test_a_tag_has_the_manifest_of_what_was_tagged(tmp_path: Path, address: str) -> None:
    second = tmp_path / "second"
    second.mkdir()
    with registry(second) as elsewhere:
        docker = put_image(elsewhere, "schema2", "1", AS_GZIP, schema2=True)
        oci = put_image(address, "tagged/oci", "1", AS_GZIP)
        zstd = put_image(address, "tagged/zstd", "1", AS_ZSTD)
        for number, order in enumerate(((0, 1, 2), (2, 1, 0), (1, 0, 2))):
            images = store(tmp_path / str(number))
            for place in order:
                names = [f"{elsewhere}/schema2:1", f"{address}/tagged/oci:1", f"{address}/tagged/zstd:1"]
                pull(images, names[place])
            for name, digest in zip(names, (docker, oci, zstd), strict=True):
                copy = f"{address}/copy{number}/{digest[7:12]}:1"
                tag(images, name, copy)
                sent = send_image(images, copy)
                assert digest_of(sent) == digest
                assert not {"Pushed", "Preparing"} & set(said(sent)[5:])
            assert check(images) == []


def test_layers_that_the_registry_lacks_are_taken_from_a_manifest_that_it_has(tmp_path: Path, address: str) -> None:
    second = tmp_path / "second"
    second.mkdir()
    with registry(second) as elsewhere:
        put_image(elsewhere, "app", "1", AS_ZSTD)
        gzipped = put_image(address, "mounted/gzip", "1", AS_GZIP)
        images = store(tmp_path)
        pull(images, f"{elsewhere}/app:1")
        pull(images, f"{address}/mounted/gzip:1")
        tag(images, f"{elsewhere}/app:1", f"{address}/mounted/copy:1")
        sent = send_image(images, f"{address}/mounted/copy:1")
        assert said(sent).count("Mounted from mounted/gzip") == 2
        assert digest_of(sent) == gzipped
        assert check(images) == []


def test_a_newer_one_takes_the_place_of_the_old(tmp_path: Path, address: str) -> None:
    zstd = put_image(address, "newer/app", "1", AS_ZSTD)
    images, name = store(tmp_path), f"{address}/newer/app:1"
    pull(images, name)
    tag(images, name, f"{address}/newer/kept:1")
    gzipped = put_image(address, "newer/app", "1", AS_GZIP)
    pull(images, name)
    assert set(images.resolve(name).digests) == {f"{address}/newer/app@{one}" for one in (zstd, gzipped)}
    assert digest_of(send_image(images, name)) == gzipped
    assert digest_of(send_image(images, f"{address}/newer/kept:1")) == zstd
    docker = put_image(address, "newer/app", "1", AS_GZIP, schema2=True)
    pull(images, name)
    assert has(images, docker)
    assert not has(images, gzipped)
    imported(images, TOP, name)  # the name goes to another image
    assert not has(images, docker)
    assert has(images, zstd)
    assert check(images) == []


def test_a_load_of_the_same_image_changes_no_name(tmp_path: Path, address: str) -> None:
    zstd = put_image(address, "load/app", "1", AS_ZSTD)
    images, name = store(tmp_path), f"{address}/load/app:1"
    pull(images, name)
    load(images, docker_archive([BOTTOM, TOP], [name, "loaded:1"]))
    assert images.resolve("loaded:1").names == (f"{address}/load/app:1", "docker.io/library/loaded:1")
    assert digest_of(send_image(images, name)) == zstd
    assert check(images) == []


def test_an_old_manifest_outlives_the_index_that_names_it_and_not_the_next_start(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    zstd = put_image(address, "order/app", "1", AS_ZSTD)
    images, name = store(tmp_path), f"{address}/order/app:1"
    pull(images, name)
    put_image(address, "order/app", "1", AS_GZIP)
    unlink, after = Path.unlink, []

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.name == hex_of(zstd):
            after.append(zstd in (images.layout.images / "index.json").read_text())
            raise OSError("killed just then")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    pull(images, name)
    monkeypatch.undo()
    assert after == [False]
    assert has(images, zstd)
    trio.run(images.tidy)
    assert not has(images, zstd)
    assert check(images) == []


def test_a_store_below(tmp_path: Path, address: str) -> None:
    zstd = put_image(address, "below/zstd", "1", AS_ZSTD)
    gzipped = put_image(address, "below/gzip", "1", AS_GZIP)
    site = store(tmp_path / "site")
    pull(site, f"{address}/below/gzip:1")
    pull(site, f"{address}/below/zstd:1")
    settings = Settings(tmp_path / "data", tmp_path / "state", tmp_path / "run")
    images = Images(Settings(**{**vars(settings), "additional_stores": (tmp_path / "site" / "data",)}))
    trio.run(images.prepare)
    for word, digest in (("zstd", zstd), ("gzip", gzipped)):
        assert digest_of(send_image(images, f"{address}/below/{word}:1")) == digest
        assert list(images.layout.blobs.iterdir()) == []
        tag(images, f"{address}/below/{word}:1", f"{address}/below/copy:{word}")
        assert digest_of(send_image(images, f"{address}/below/copy:{word}")) == digest
        assert has(images, digest)
        assert check(images) == []
        remove(images, f"{address}/below/copy:{word}")
        assert list(images.layout.blobs.iterdir()) == []
    put_image(address, "below/zstd", "1", AS_GZIP)
    pull(images, f"{address}/below/zstd:1")
    assert not has(images, zstd)
    assert has(images, gzipped)
    assert digest_of(send_image(images, f"{address}/below/zstd:1")) == gzipped
    assert check(images) == []
    assert check(site) == []
    with pytest.raises(NotFound):
        images.resolve(f"{address}/below/copy:zstd")
