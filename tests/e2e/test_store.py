"""The store through the command line: df, check, images and their filters, stores of others."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.busybox import busybox_tar
from tests.e2e.conftest import Installation

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]


def launchers_of(installation: Installation) -> list[str]:
    """Processes that were started for an installation and live: number, name, what they wait in."""
    wanted = f"ROOTLESS_RUNTIME_DIR={installation.home / 'run'}".encode()
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words, environment = (directory / "cmdline").read_bytes(), (directory / "environ").read_bytes()
            state = f"{directory.name} {(directory / 'comm').read_text()} {(directory / 'wchan').read_text()}"
        except OSError:
            continue
        if b"rootless.launcher" in words and wanted in environment.split(b"\0"):
            found.append(state)
    return found


def test_df(rootless: Installation, name: str) -> None:
    rootless("tag", "busybox", "also:1")
    rootless("run", "--name", name, "busybox", "sh", "-c", "dd if=/dev/zero of=/x bs=1000 count=300 2>/dev/null")
    for client in (rootless, rootless.docker):
        rows = [json.loads(line) for line in client("system", "df", "--format", "json").stdout.splitlines()]
        by_type = {row["Type"]: row for row in rows}
        assert list(by_type) == ["Images", "Containers", "Local Volumes", "Build Cache"]
        assert by_type["Containers"]["Size"].startswith("300")
        assert by_type["Containers"]["Reclaimable"].startswith("300")
        assert int(by_type["Images"]["Active"]) >= 1
        assert name in client("system", "df", "-v").stdout.decode()
    assert "also " in rootless.out("system", "df", "-v")
    image = json.loads(rootless.run(_curl(rootless, "/system/df?type=image"), None, 0, 60, {}).stdout)
    size = next(row for row in image["Images"] if "busybox:latest" in row["RepoTags"])
    assert size["SharedSize"] >= 0
    assert image["LayersSize"] >= size["Size"] - size["SharedSize"]
    layers = (rootless.home / "data" / "layers").glob("*/layer.tar")
    assert image["LayersSize"] == sum(path.stat().st_size for path in layers)
    rootless("rmi", "also:1")


def _curl(rootless: Installation, path: str) -> list[str]:
    script = (
        "import http.client, socket, sys; c = http.client.HTTPConnection('d'); c.sock = socket.socket(socket.AF_UNIX); "
        "c.sock.connect(sys.argv[1]); c.request('GET', sys.argv[2]); print(c.getresponse().read().decode())"
    )
    return ["python3", "-c", script, str(rootless.socket), path]


def test_ps_knows_what_was_written_by_all_users(rootless: Installation, name: str) -> None:
    script = "mkdir /a; chmod 700 /a; dd if=/dev/zero of=/a/x bs=1000 count=7 2>/dev/null; chown -R 33:33 /a"
    rootless("run", "--name", name, "busybox", "sh", "-c", script)
    rows = [
        line.split()[0]
        for line in rootless.out("ps", "-as", "--format", "{{.Size}} {{.Names}}").splitlines()
        if name in line
    ]
    assert rows == ["7kB"]


def test_images_and_filters(rootless: Installation) -> None:
    rootless("import", "-c", "LABEL made=for-filters", "-", "filtered/one:1", stdin=busybox_tar())
    rootless("import", "-c", "LABEL made=again", "-", "filtered/one:2", stdin=busybox_tar())

    def seen(*filters: str) -> set[str]:
        words = [word for text in filters for word in ("-f", text)]
        formats = "{{.Repository}}:{{.Tag}}"
        ours = rootless.out("images", "--format", formats, *words).splitlines()
        theirs = rootless.docker("images", "--format", formats, *words).stdout.decode().splitlines()
        assert ours == theirs
        return set(ours)

    assert seen("label=made") == {"filtered/one:1", "filtered/one:2"}
    assert seen("label=made=again") == {"filtered/one:2"}
    assert seen("reference=filtered/*:1") == {"filtered/one:1"}
    assert seen("reference=*:1", "label=made") == set()
    assert "busybox:latest" in seen("reference=busybox")
    assert seen("until=1h", "label=made") == set()
    assert seen("until=0s", "dangling=false", "label=made") == {"filtered/one:1", "filtered/one:2"}
    for bad in ("size=1", "reference=[", "dangling=maybe", "before=nothing"):
        assert rootless("images", "-f", bad, check=1).stderr
    tree = rootless.out("images", "--tree")
    assert "└─ linux/" in tree
    assert "filtered/one:1" in tree
    rootless("import", "-", "filtered/one:1", stdin=busybox_tar())
    assert seen("dangling=true", "label=made") == {"<none>:<none>"}
    assert "deleted: sha256:" in rootless.out("image", "prune", "-f", "--filter", "label=made=for-filters")
    assert seen("dangling=true", "label=made") == set()
    assert "untagged: filtered/one:2" in rootless.out("image", "prune", "-a", "-f", "--filter", "label=made")
    rootless("rmi", "filtered/one:1")


def test_check(rootless: Installation) -> None:
    assert rootless.out("system", "check").endswith("no problems")
    image = json.loads(rootless.out("image", "inspect", "busybox"))[0]
    layer = rootless.home / "data" / "layers" / image["RootFS"]["Layers"][0].removeprefix("sha256:")
    (layer / "index").write_bytes(b"x")
    assert "index of the layer" in rootless("system", "check", check=1).stdout.decode()
    assert "mended" in rootless.out("system", "check", "--repair")
    assert rootless.out("run", "--rm", "busybox", "echo", "fine") == "fine"
    assert rootless.out("system", "check", "-q") == ""


def test_a_store_of_somebody_else(rootless: Installation, fresh: Installation) -> None:
    store = rootless.home / "data"
    fresh("system", "start", "--storage-opt", f"additional={store}")
    assert fresh.out("run", "--rm", "busybox", "echo", "shared") == "shared"
    assert "read-only store" in fresh("rmi", "busybox", check=1).stderr.decode()
    assert list((fresh.home / "data" / "layers").iterdir()) == []
    fresh("run", "--name", "one", "busybox", "sh", "-c", "echo more > /more")
    fresh("commit", "one", "mine:1")
    assert fresh.out("run", "--rm", "mine:1", "cat", "/more") == "more"
    assert fresh.out("system", "check").endswith("no problems")
    assert "keeps its options" in fresh("system", "start", "--storage-opt", "additional=/x", check=1).stderr.decode()
    fresh("system", "stop")
    assert (
        "cannot use the additional store"
        in fresh("system", "start", "--storage-opt", "additional=/nowhere", check=1).stderr.decode()
    )
    end = time.monotonic() + 20
    while launchers_of(fresh) and time.monotonic() < end:
        pass
    assert launchers_of(fresh) == []  # an engine that cannot start ends the launcher it has started
    assert "invalid storage option" in fresh("system", "start", "--storage-opt", "size=1", check=1).stderr.decode()


def test_damaged_indexes_are_made_anew(fresh: Installation) -> None:
    fresh("import", "-", "broken", stdin=busybox_tar())
    store = fresh.home / "data"
    for path in [*(store / "trees").iterdir(), *(store / "layers").glob("*/index")]:
        (store / "new").write_bytes(path.read_bytes()[:100])
        (store / "new").rename(path)
    assert fresh.out("run", "--rm", "--network=none", "broken", "echo", "whole") == "whole"
    assert fresh.out("system", "check").endswith("no problems")


def test_an_image_goes_and_another_of_the_same_layers_is_still_run(rootless: Installation) -> None:
    """They share a mount."""
    rootless("import", "-c", 'CMD ["echo", "one"]', "-", "twin:1", stdin=busybox_tar())
    rootless("import", "-c", 'CMD ["echo", "two"]', "-", "twin:2", stdin=busybox_tar())
    assert rootless.out("run", "--rm", "twin:1") == "one"
    rootless("run", "-d", "--name", "twin", "twin:2", "sh", "-c", "sleep 1000")
    mounts = rootless.out("exec", "twin", "grep", "-c", "overlay", "/proc/mounts")
    rootless("rmi", "twin:1")
    assert rootless.out("run", "--rm", "twin:2") == "two"
    assert rootless.out("exec", "twin", "grep", "-c", "overlay", "/proc/mounts") == mounts
    rootless("rm", "-f", "twin")
    rootless("rmi", "twin:2")
