"""A container's files: diff, commit, export and cp, with the real kernel, through rootless and the docker client."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from tests.e2e.conftest import Installation

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]

CHANGES = (
    "echo new > /etc/new; echo more >> /etc/marker; rm /etc/group; rm -r /usr; mkdir /usr; touch /usr/only; "
    "chmod 700 /root; mkdir -p /a/b; ln -s /etc/new /a/b/link; mkfifo /a/pipe; chown 33:33 /etc/new; "
    "rm -r /home; echo file > /home; rm /bin/vi; mkdir /bin/vi"
)
DIFF = """\
A /a
A /a/b
A /a/b/link
A /a/pipe
C /bin
C /bin/vi
C /etc
D /etc/group
C /etc/marker
A /etc/new
C /home
C /root
C /usr
D /usr/bin
A /usr/only""".splitlines()


def names(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: member for member in tar}


def listing(rootless: Installation, image: str) -> str:
    """But for the root, which is as old as its container."""
    script = (
        "cd /; find . -mindepth 1 -path ./proc -prune -o -path ./sys -prune -o -path ./dev -prune -o -print |"
        "sort | xargs ls -ldn"
    )
    return rootless.out("run", "--rm", "--network", "none", image, "sh", "-c", script)


@pytest.fixture(params=["fuse+overlay", "fuse"])
def changed(rootless: Installation, name: str, request: pytest.FixtureRequest) -> str:
    driver = f"driver={request.param}"
    rootless("run", "--name", name, "--storage-opt", driver, "--network", "none", "busybox", "sh", "-c", CHANGES)
    return name


@pytest.mark.parametrize("client", ["rootless", "docker"])
def test_diff(rootless: Installation, changed: str, client: str) -> None:
    done = rootless("diff", changed) if client == "rootless" else rootless.docker("diff", changed)
    assert done.stdout.decode().splitlines() == DIFF


def test_a_container_that_did_nothing_has_no_changes(rootless: Installation, name: str) -> None:
    rootless("run", "--name", name, "busybox", "true")
    assert rootless.out("diff", name) == ""
    image = rootless.out("commit", name)
    history = json.loads(rootless.docker("history", "--format", "json", "--no-trunc", image).stdout.splitlines()[0])
    assert history["Size"] == "0B"
    layers = "{{json .RootFS.Layers}}"
    assert rootless.out("inspect", "-f", layers, image) == rootless.out("inspect", "-f", layers, "busybox")
    rootless("rmi", image)


def test_commit_is_the_container_as_an_image(rootless: Installation, changed: str) -> None:
    options = ["-a", "me <me@x>", "-m", "why", "-c", 'CMD ["cat", "/etc/new"]', "-c", "ENV B=c", "-c", "LABEL l=1"]
    image = rootless.docker("commit", *options, changed, "made:1").stdout.decode().strip()
    assert rootless.out("run", "--rm", "--network", "none", "made:1") == "new"
    seen = json.loads(rootless.out("image", "inspect", "made:1"))[0]
    assert (seen["Id"], seen["Author"], seen["Comment"]) == (image, "me <me@x>", "why")
    assert "B=c" in seen["Config"]["Env"]
    assert seen["Config"]["Labels"] == {"l": "1"}
    assert len(seen["RootFS"]["Layers"]) == 2
    rootless.run(
        ["sh", "-c", f"{rootless.command} export {changed} | {rootless.command} import - whole:1"], None, 0, 60, {}
    )
    first, second = listing(rootless, "made:1"), listing(rootless, "whole:1")
    assert first == second
    assert "/etc/group" not in first
    assert "33       33" in next(line for line in first.splitlines() if line.endswith("./etc/new"))
    rootless("rmi", "made:1", "whole:1")


def test_export_through_docker(rootless: Installation, changed: str, tmp_path: Path) -> None:
    rootless.docker("export", "-o", str(tmp_path / "out.tar"), changed)
    members = names((tmp_path / "out.tar").read_bytes())
    assert members["etc/new"].uid == 33
    assert members["a/b/link"].linkname == "/etc/new"
    assert members["home"].isreg()
    assert not {"etc/group", "usr/bin", "proc"} & set(members)


def test_commit_of_a_running_container(rootless: Installation, name: str) -> None:
    rootless("run", "-d", "--name", name, "busybox", "sh", "-c", "echo x > /made; sleep 1000")
    while rootless("exec", name, "test", "-s", "/made", check=None).returncode:
        pass
    rootless("commit", name, "running:1")
    assert rootless.out("run", "--rm", "running:1", "cat", "/made") == "x"
    assert rootless.out("inspect", "-f", "{{.State.Running}}", name) == "true"
    rootless("rmi", "running:1")


@pytest.mark.parametrize("driver", ["fuse+overlay", "fuse"])
def test_what_is_written_to_an_open_file_counts(rootless: Installation, name: str, driver: str) -> None:
    script = "mkfifo /pipe; cat <>/pipe >/open & echo x >/pipe; wait"  # cat never closes it
    options = ("--network", "none", "--storage-opt", f"driver={driver}")
    rootless("run", "-d", "--name", name, *options, "busybox", "sh", "-c", script)
    while rootless("exec", name, "test", "-s", "/open", check=None).returncode:
        pass
    assert names(rootless("export", name).stdout)["open"].size == 2
    rootless("exec", name, "sh", "-c", "echo more >/pipe; while [ $(stat -c %s /open) != 7 ]; do :; done")
    rootless("commit", name, "open:1")
    assert rootless.out("run", "--rm", "--network", "none", "open:1", "cat", "/open") == "x\nmore"
    rootless("rmi", "open:1")


@pytest.mark.parametrize("driver", ["fuse+overlay", "fuse"])
def test_a_container_stands_still_while_it_is_committed(rootless: Installation, name: str, driver: str) -> None:
    count = "i=0; while :; do i=$((i+1)); for f in first last; do echo $i >/$f.new; mv /$f.new /$f; done; done"
    script = f"dd if=/dev/zero of=/large bs=1M count=200 2>/dev/null; {count} & while :; do echo >/other; done"
    options = ("--network", "none", "--storage-opt", f"driver={driver}")
    rootless("run", "-d", "--name", name, *options, "busybox", "sh", "-c", script)
    while rootless("exec", name, "test", "-s", "/last", check=None).returncode:
        pass
    rootless("commit", name, "still:1")
    first, last = map(int, rootless.out("run", "--rm", "still:1", "cat", "/first", "/last").split())
    assert first - 1 <= last <= first  # between the two, 200 MB have been read
    while int(rootless.out("exec", name, "cat", "/first")) <= first:
        pass
    rootless("rmi", "still:1")


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize(
    ("client", "driver"), [("rootless", "fuse+overlay"), ("docker", "fuse+overlay"), ("rootless", "fuse")]
)
def test_cp_there_and_back(
    rootless: Installation, name: str, tmp_path: Path, client: str, running: bool, driver: str
) -> None:
    cp = (
        (lambda *words: rootless("cp", *words))
        if client == "rootless"
        else (lambda *words: rootless.docker("cp", *words))
    )
    volume = tmp_path / "volume"
    volume.mkdir()
    options = ["--storage-opt", f"driver={driver}", "-v", f"{volume}:/data"]
    rootless("create", "--name", name, *options, "busybox", "sleep", "1000")
    if running:
        rootless("start", name)
    source = tmp_path / "dir"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "file").write_bytes(b"x" * 3_000_000)
    (source / "link").symlink_to("deep/file")
    (source / "deep" / "run").write_text("#!/bin/sh\n")
    (source / "deep" / "run").chmod(0o4755)
    os.link(source / "deep" / "run", source / "again")
    cp(str(source), f"{name}:/tmp")
    cp(f"{source}/.", f"{name}:/data")
    assert (volume / "deep" / "file").read_bytes() == b"x" * 3_000_000
    cp(f"{name}:/tmp/dir", str(tmp_path / "back"))
    assert (tmp_path / "back" / "deep" / "file").read_bytes() == b"x" * 3_000_000
    assert os.readlink(tmp_path / "back" / "link") == "deep/file"
    assert (tmp_path / "back" / "again").stat().st_ino == (tmp_path / "back" / "deep" / "run").stat().st_ino
    cp(f"{name}:/data/deep/file", str(tmp_path / "alone"))
    assert (tmp_path / "alone").stat().st_size == 3_000_000
    (tmp_path / "alone").write_text("other")
    cp(str(tmp_path / "alone"), f"{name}:/etc/marker")
    rootless("start", name, check=None)
    assert rootless.out("exec", name, "cat", "/etc/marker") == "other"
    assert rootless.out("exec", name, "stat", "-c", "%a", "/tmp/dir/deep/run") == "4755"
    if client == "rootless":
        assert rootless.out("exec", name, "stat", "-c", "%u:%g", "/tmp/dir/deep/file") == "0:0"


def test_cp_stays_inside(rootless: Installation, name: str, tmp_path: Path) -> None:
    """Links in a container lead to the container's files, whoever follows them."""
    (tmp_path / "secret").write_text("host")
    script = (
        f"ln -s / /up; ln -s /proc/1/root/etc /magic; ln -s {tmp_path} /out; ln -s ../../../../.. /dots; sleep 1000"
    )
    rootless("run", "-d", "--name", name, "busybox", "sh", "-c", script)
    while rootless("exec", name, "test", "-L", "/dots", check=None).returncode:
        pass
    for stopped in (False, True):
        if stopped:
            rootless("stop", "-t", "0", name)
        for path in (
            "/out/secret",
            "/out/",
            f"/dots{tmp_path}/secret",
            "../../../../" + str(tmp_path / "secret"),
            "/magic/",
        ):
            done = rootless("cp", f"{name}:{path}", "-", check=1)
            assert b"host" not in done.stdout
        assert names(rootless("cp", f"{name}:/out", "-").stdout)["out"].linkname == str(tmp_path)
        assert "marker" in names(rootless("cp", f"{name}:/up/etc/marker", "-").stdout)
        (tmp_path / "f").write_text("in")
        rootless("cp", str(tmp_path / "f"), f"{name}:/out/f", check=1)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "secret"]


def test_cp_complaints(rootless: Installation, name: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    rootless("create", "--name", name, "--read-only", "busybox")
    for client in (rootless, rootless.docker):
        assert (
            "Could not find the file /none in container" in client("cp", f"{name}:/none", "-", check=1).stderr.decode()
        )
        assert "read-only" in client("cp", str(tmp_path / "f"), f"{name}:/etc", check=1).stderr.decode()
        assert "No such container" in client("cp", "nobody:/x", "-", check=1).stderr.decode()
    assert "not a directory" in rootless("cp", str(tmp_path), f"{name}:/etc/marker", check=1).stderr.decode()
    assert "No such container" in rootless("commit", "nobody", check=1).stderr.decode()
    assert "invalid reference" in rootless("commit", name, "BAD:x", check=1).stderr.decode()
    assert "valid change" in rootless("commit", "-c", "FROM x", name, check=1).stderr.decode()
    rootless("create", "--name", f"{name}-host", "host")
    assert "image host" in rootless("commit", f"{name}-host", check=1).stderr.decode()
    rootless("rm", f"{name}-host")


def test_archives_through_the_docker_client(rootless: Installation, changed: str, tmp_path: Path) -> None:
    """save, load, import, history; to files and pipes; ids as they were."""
    rootless.docker("commit", "-m", "one more", changed, "moved:1")
    image = rootless.out("inspect", "-f", "{{.Id}}", "moved:1")
    rootless.docker("save", "-o", str(tmp_path / "both.tar"), "moved:1", "busybox")
    single = rootless.docker("save", image).stdout
    rootless.docker("rm", changed)
    rootless.docker("rmi", "moved:1")
    assert "moved" not in rootless.out("images")
    loaded = rootless.docker("load", "-i", str(tmp_path / "both.tar")).stdout.decode()
    assert loaded.splitlines() == ["Loaded image: moved:1", "Loaded image: busybox:latest"]
    assert rootless.out("inspect", "-f", "{{.Id}}", "moved:1") == image
    assert image in rootless.docker("load", stdin=single).stdout.decode()
    history = [
        json.loads(line) for line in rootless.docker("history", "--format", "json", "moved:1").stdout.splitlines()
    ]
    assert [row["Comment"] for row in history] == ["one more", "Imported from -"]
    assert history[0]["ID"] == image[7:19]
    rows = rootless.out("history", "--format", "{{.Size}} {{.Comment}}", "moved:1").splitlines()
    assert rows == [f"{row['Size']} {row['Comment']}" for row in history]
    assert rootless("save", "-o", str(tmp_path / "no"), "nothing", check=1).stderr
    assert not (tmp_path / "no").exists()
    rootless("rmi", "moved:1")
