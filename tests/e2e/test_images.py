"""Images through the command line: import, tag, remove, and archives that are broken or hostile."""

from __future__ import annotations

import functools
import gzip
import http.server
import io
import json
import tarfile
import threading
from pathlib import Path

import pytest

from tests.busybox import busybox_tar
from tests.e2e.conftest import Installation, until
from tests.images.registries import tar_of

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]


def stored(rootless: Installation) -> set[str]:
    """Every file and directory of the data root, for \"nothing left behind\"."""
    root = rootless.home / "data"
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.name not in ("lock", ".lock")}


def archive(*entries: tuple[str, bytes, str]) -> bytes:
    """A tar of (name, type, link name)."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, kind, link in entries:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            info.size = 4 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"data") if info.size else None)
    return made.getvalue()


def test_import_inspect_and_remove(rootless: Installation) -> None:
    before = stored(rootless)
    changes = ["-c", 'CMD ["echo", "made"]', "-c", "ENV A=b", "-c", "WORKDIR /etc", "-m", "a message"]
    image = rootless.out("import", *changes, "-", "made:1", stdin=gzip.compress(busybox_tar() + bytes(512), 1))
    assert image.startswith("sha256:")
    config = json.loads(rootless.out("image", "inspect", "made:1"))[0]["Config"]
    assert config["Cmd"] == ["echo", "made"]
    assert "A=b" in config["Env"]
    assert config["WorkingDir"] == "/etc"
    assert rootless.out("run", "--rm", "made:1") == "made"
    rootless("tag", "made:1", "made:2")
    assert "Untagged: made:2" in rootless.out("rmi", "made:2")
    assert "Deleted: sha256:" in rootless.out("rmi", "made:1")
    until(lambda: stored(rootless) <= before)  # rmi has answered before the room is free


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("truncated", busybox_tar()[:300_000]),
        ("not a tar", b"this is not a tar archive" * 100),
        ("truncated gzip", gzip.compress(busybox_tar(), 1)[:100_000]),
        ("outside", archive(("../outside", tarfile.REGTYPE, ""))),
        ("hard link to nowhere", archive(("a", tarfile.LNKTYPE, "../../etc/passwd"))),
        ("empty", b""),
    ],
)
def test_a_broken_archive_is_refused_and_leaves_nothing(rootless: Installation, what: str, data: bytes) -> None:
    before = stored(rootless)
    done = rootless("import", "-", "broken", stdin=data, check=1)
    assert done.stdout == b""
    assert len(done.stderr.decode().strip()) > 10
    assert stored(rootless) == before
    assert "broken" not in rootless.out("images")


def test_absolute_names_and_links_stay_inside(rootless: Installation, tmp_path: Path) -> None:
    made = archive(("/absolute", tarfile.REGTYPE, ""), ("link", tarfile.SYMTYPE, str(tmp_path)))
    rootless("import", "-", "inside", stdin=made)
    rootless("rmi", "inside")
    through = archive(("link", tarfile.SYMTYPE, str(tmp_path)), ("link/file", tarfile.REGTYPE, ""))
    if rootless("import", "-", "through", stdin=through, check=None).returncode == 0:
        rootless("rmi", "through")
    assert list(tmp_path.iterdir()) == []


def test_an_image_in_use_is_not_removed(rootless: Installation, name: str) -> None:
    rootless("import", "-", "used:1", stdin=tar_of({"used": b""}))
    rootless("create", "--name", name, "used:1", "/used")
    done = rootless("rmi", "used:1", check=1)
    assert "is using" in done.stderr.decode()
    assert rootless.out("image", "inspect", "-f", "{{.RepoTags}}", "used:1") == "[used:1]"
    rootless("rm", name)
    rootless("rmi", "used:1")


def test_the_id_of_an_image_in_use(rootless: Installation, name: str) -> None:
    """By force while its containers are stopped; they start all the same."""
    rootless("import", "--change", 'CMD ["sleep", "100"]', "-", "used:2", stdin=busybox_tar())
    image = rootless.out("image", "inspect", "-f", "{{.Id}}", "used:2")
    rootless("run", "-d", "--name", name, "used:2")
    refused = rootless("rmi", "-f", image, check=1)
    assert b"(cannot be forced) - image is being used by running container" in refused.stderr
    rootless("kill", name)
    rootless("wait", name)
    assert b"(must be forced) - image is being used by stopped container" in rootless("rmi", image, check=1).stderr
    assert rootless.out("rmi", "-f", image) == "Untagged: used:2"
    assert b"(cannot be forced) - image is being used by stopped" in rootless("rmi", "-f", image, check=1).stderr
    rootless("start", name)
    rootless("rm", "-f", name)
    assert f"Deleted: {image}" in rootless.out("rmi", image)


def test_unknown_images(rootless: Installation) -> None:
    assert "No such image: nothing" in rootless("rmi", "nothing", check=1).stderr.decode()
    assert "No such" in rootless("inspect", "nothing", check=1).stderr.decode()


def test_import_from_a_web_server(rootless: Installation, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(busybox_tar())
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        rootless.docker("import", "-c", 'CMD ["echo", "fetched"]', f"{address}/root.tar", "web:1")
        assert rootless.out("run", "--rm", "web:1") == "fetched"
        assert "Imported from http://127.0.0.1" in rootless.out("history", "web:1")
        assert "status 404" in rootless("import", f"{address}/none.tar", check=1).stderr.decode()
        server.shutdown()
    assert "cannot reach" in rootless("import", f"{address}/root.tar", check=1).stderr.decode()
    rootless("rmi", "web:1")
