"""login, push, pull, manifest, search by the installed command and by the docker client, against a real registry."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from tests.busybox import busybox_tar
from tests.e2e.conftest import Installation
from tests.images.faulty import faulty_registry
from tests.images.registries import PASSWORD, USER, config_of, put_image, registry, sha256, tar_of

HELPER = """#!/bin/sh
store=$(dirname "$0")/kept
case $1 in
 store) cat > "$store" ;;
 get) [ -f "$store" ] && cat "$store" || { echo "credentials not found in native keychain"; exit 1; } ;;
 erase) rm -f "$store" ;;
esac
"""


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A registry with TLS and a password: (address, its certificate)."""
    directory = tmp_path_factory.mktemp("secured")
    with registry(directory, password=True, tls=True) as address:
        yield address, directory / "tls.crt"


@pytest.fixture
def config(tmp_path: Path) -> str:
    return str(tmp_path / "config")


def test_with_tls_and_password(rootless: Installation, secured: tuple[str, Path], config: str, tmp_path: Path) -> None:
    address, _ = secured
    name = f"{address}/team/busybox:1"
    rootless("tag", "busybox", name)
    refused = rootless("--config", config, "push", name, check=1)
    assert b"no basic auth credentials" in refused.stderr or b"authentication required" in refused.stderr
    wrong = rootless("--config", config, "login", "-u", USER, "--password-stdin", address, stdin=b"wrong", check=1)
    assert b"unauthorized" in wrong.stderr
    assert not os.path.exists(f"{config}/config.json")
    done = rootless("--config", config, "login", "-u", USER, "--password-stdin", address, stdin=PASSWORD.encode())
    assert done.stdout == b"Login Succeeded\n"
    assert b"stored unencrypted" in done.stderr
    assert os.stat(f"{config}/config.json").st_mode & 0o777 == 0o600
    pushed = rootless.out("--config", config, "push", name)
    digest = pushed.rpartition("digest: ")[2].split()[0]
    rootless("rmi", name)
    pulled = rootless.out("--config", config, "pull", name)
    assert f"Digest: {digest}" in pulled
    assert rootless.out("run", "--rm", name, "echo", "hello") == "hello"
    rootless("tag", name, f"{address}/other/busybox:1")
    mounted = rootless.out("--config", config, "push", f"{address}/other/busybox:1")
    assert "Mounted from team/busybox" in mounted
    assert digest in mounted
    rootless("rmi", f"{address}/other/busybox:1")
    # the docker client reads what we wrote
    done = rootless.run(
        ["docker", "--config", config, "-H", f"unix://{rootless.socket}", "push", name], None, 0, 60, {}
    )
    assert b"Layer already exists" in done.stdout
    assert digest in done.stdout.decode()
    by_skopeo = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"--creds={USER}:{PASSWORD}", f"docker://{name}"]
    assert json.loads(subprocess.run(by_skopeo, check=True, capture_output=True, timeout=60).stdout)["layers"]
    found = rootless.out("--config", config, "search", f"{address}/")
    assert f"{address}/team/busybox" in found
    assert rootless.out("--config", config, "logout", address) == f"Removing login credentials for {address}"
    assert rootless.out("--config", config, "logout", address) == f"Not logged in to {address}"
    rootless("rmi", name)
    denied = rootless("--config", config, "pull", name, check=1)
    assert b"pull access denied for" in denied.stderr


def test_a_credential_helper(rootless: Installation, secured: tuple[str, Path], config: str, tmp_path: Path) -> None:
    address, _ = secured
    os.mkdir(config)
    helper = tmp_path / "docker-credential-kept"
    helper.write_text(HELPER)
    helper.chmod(0o755)
    Path(config, "config.json").write_text(json.dumps({"credsStore": "kept", "HttpHeaders": {"X": "y"}}))
    more = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = rootless("--config", config, "login", "-u", USER, "-p", PASSWORD, address, **more)
    assert b"unencrypted" not in done.stderr
    kept = json.loads((tmp_path / "kept").read_text())
    assert kept == {"ServerURL": address, "Username": USER, "Secret": PASSWORD}
    assert json.loads(Path(config, "config.json").read_text()) == {"credsStore": "kept", "HttpHeaders": {"X": "y"}}
    again = rootless("--config", config, "login", address, **more)
    assert again.stdout == b"Authenticating with existing credentials...\nLogin Succeeded\n"
    rootless("tag", "busybox", f"{address}/helped:1")
    rootless("--config", config, "push", "-q", f"{address}/helped:1", **more)
    rootless("--config", config, "logout", address, **more)
    assert not (tmp_path / "kept").exists()


def test_an_image_for_several_platforms(rootless: Installation, tmp_path: Path, config: str) -> None:
    with registry(tmp_path) as address:
        for architecture in ("amd64", "arm64"):
            name = f"{address}/one/{architecture}:1"
            rootless("import", "--platform", f"linux/{architecture}", "-", name, stdin=busybox_tar())
            rootless("push", name)
        target = f"{address}/all:1"
        members = [f"{address}/one/{architecture}:1" for architecture in ("amd64", "arm64")]
        assert rootless.out("--config", config, "manifest", "create", target, *members) == (
            f"Created manifest list {target}"
        )
        rootless("--config", config, "manifest", "create", target, *members, check=1)
        rootless("--config", config, "manifest", "annotate", "--variant", "v8", target, members[1])
        digest = rootless.out("--config", config, "manifest", "push", "--purge", target)
        rootless("--config", config, "manifest", "rm", target, check=1)
        shown = json.loads(rootless.out("manifest", "inspect", target))
        assert [one["platform"] for one in shown["manifests"]] == [
            {"architecture": "amd64", "os": "linux"},
            {"architecture": "arm64", "os": "linux", "variant": "v8"},
        ]
        pulled = rootless.out("pull", "--platform", "linux/arm64", target)
        assert f"Digest: {digest}" in pulled
        assert rootless.out("inspect", "--format", "{{.Architecture}}", target) == "arm64"
        refused = rootless("pull", "--platform", "linux/s390x", target, check=1)
        assert b"no matching manifest for linux/s390x" in refused.stderr
        raw = ["skopeo", "inspect", "--raw", "--no-creds", "--tls-verify=false", f"docker://{target}"]
        assert len(json.loads(subprocess.run(raw, check=True, capture_output=True).stdout)["manifests"]) == 2
        rootless("rmi", target)


def test_an_image_that_is_here_for_another_platform(rootless: Installation) -> None:
    """docker's client pulls upon our 404, as our own command does; what no registry has fails and runs nothing."""
    tar = busybox_tar()
    with faulty_registry() as server:
        layers = [(tar, gzip.compress(tar), "application/vnd.oci.image.layer.v1.tar+gzip")]
        amd64 = server.add("1", layers)
        arm64 = server.add("1", layers, config_of([tar], architecture="arm64"))
        name = f"{server.address}/app:1"
        rootless("pull", name)
        said = f"image with reference {name} was found but its platform (linux/arm64) does not match the specified"
        never = rootless("run", "--pull", "never", "--platform", "linux/amd64", name, "true", check=125)
        assert f"{said} platform (linux/amd64)" in never.stderr.decode()
        for words, warned in ((["--platform", "linux/arm64/v8"], False), ([], True)):
            made = rootless("create", "--pull", "never", *words, "--name", "arm", name)
            assert (b"platform (linux/arm64) does not match the detected host" in made.stderr) == warned
            rootless("rm", "arm")
        clients = [rootless, rootless.docker] if shutil.which("docker") else [rootless]
        for run in clients:
            refused = run("run", "--rm", "--platform", "linux/s390x", name, "true", check=125)
            assert b"does not match the specified platform (linux/s390x)" in refused.stderr.replace(b"\n", b" ")
            server.manifests["1"] = server.manifests[amd64]
            ran = run("run", "--rm", "--platform", "linux/amd64", name, "echo", "pulled")
            assert ran.stdout == b"pulled\n"
            assert b"Unable to find image" in ran.stderr
            server.manifests["1"] = server.manifests[arm64]
            rootless("pull", name)
        rootless("rmi", name)


def test_all_tags(rootless: Installation, tmp_path: Path) -> None:
    with registry(tmp_path) as address:
        for word in ("1", "2"):
            rootless("tag", "busybox", f"{address}/many:{word}")
        rootless("push", "-a", f"{address}/many")
        rootless("rmi", f"{address}/many:1", f"{address}/many:2")
        rootless("pull", "-a", f"{address}/many")
        assert rootless.out("images", "--format", "{{.Tag}}", f"{address}/many").split() == ["1", "2"]
        rootless("pull", "-a", f"{address}/many:1", check=1)
        rootless("rmi", f"{address}/many:1", f"{address}/many:2")


def test_one_image_under_two_manifests(rootless: Installation, tmp_path: Path) -> None:
    tar = tar_of({"etc/motd": b"hello\n" * 1000})
    with registry(tmp_path) as address:
        zstd = put_image(address, "rep/a", "1", [(tar, zstandard.compress(tar), "zstd")])
        gzipped = put_image(address, "rep/b", "1", [(tar, gzip.compress(tar), "gzip")])
        a, b = f"{address}/rep/a", f"{address}/rep/b"
        rootless("pull", f"{a}:1")
        rootless("pull", f"{b}:1")
        shown = "{{.Repository}} {{.Digest}}"
        for name, digest in ((a, zstd), (b, gzipped)):
            assert rootless.out("images", "--digests", "--format", shown, name) == f"{name} {digest}"
            assert json.loads(rootless.out("image", "inspect", f"{name}@{digest}"))[0]["RepoTags"] == [
                f"{a}:1",
                f"{b}:1",
            ]
            assert f"1: digest: {digest} size: " in rootless.out("push", f"{name}:1")
        rootless("tag", f"{a}:1", f"{address}/rep/c:1")
        assert f"1: digest: {zstd} size: " in rootless.out("push", f"{address}/rep/c:1")
        rootless("system", "check")
        rootless("rmi", f"{a}:1")
        rootless("system", "check")
        rootless("rmi", f"{b}:1", f"{address}/rep/c:1")
        rootless("system", "check")


def test_a_pull_that_was_interrupted_goes_on_where_it_was(rootless: Installation) -> None:
    tar = tar_of({"noise": random.Random(3).randbytes(3_000_000)})
    packed, never = gzip.compress(tar), threading.Event()
    digest = sha256(packed)
    with faulty_registry() as server:
        server.add("1", [(tar, packed, "application/vnd.oci.image.layer.v1.tar+gzip")])
        server.faults.trickles[digest] = 2_500_000, never
        name = f"{server.address}/cut:1"
        pull = subprocess.Popen([rootless.command, "pull", name], env=rootless.environment, stdout=subprocess.DEVNULL)
        kept = rootless.home / "data" / "tmp" / f"layer-{digest.removeprefix('sha256:')}" / "packed"
        end = time.monotonic() + 20
        while not kept.exists() or kept.stat().st_size < 1 << 20:
            assert time.monotonic() < end
            time.sleep(0.01)
        pull.send_signal(signal.SIGINT)
        assert pull.wait(20) != 0
        server.faults.trickles.clear()
        server.faults.seen.clear()
        rootless("pull", name)
        (asked,) = [headers.get("range", "") for _, path, headers in server.faults.seen if digest in path]
        assert int(asked.removeprefix("bytes=").removesuffix("-")) >= 1 << 20
        rootless("rmi", name)
        never.set()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pull", "UPPER"], "invalid reference format: repository name (library/UPPER) must be lowercase"),
        (["rmi", "UPPER"], "invalid reference format: repository name (library/UPPER) must be lowercase"),
        (["rmi", "0" * 64], f"No such image: {'0' * 64}"),
        (["pull", "busybox:"], "invalid reference format: 'busybox:'"),
        (["pull", ""], "invalid reference format: ''"),
        (["pull", ":tag"], "invalid reference format: ':tag'"),
        (["pull", "@sha256:" + "0" * 64], "invalid reference format: '@sha256:000"),
        (["pull", "0" * 64], "cannot specify 64-byte hexadecimal strings"),
        (["push", "busybox:"], "invalid reference format: 'busybox:'"),
        (["tag", "busybox", "b:"], "invalid reference format: 'b:'"),
        (["pull", "127.0.0.1:1/app"], "cannot reach the registry 127.0.0.1:1: Connection refused"),
        (["push", "127.0.0.1:1/absent"], "An image does not exist locally with the tag: 127.0.0.1:1/absent"),
        (
            ["push", "--platform", "linux/s390x", "busybox"],
            "was found but does not match the specified platform: wanted linux/s390x, actual: linux/amd64",
        ),
        (["push", "busybox@sha256:" + "0" * 64], "cannot push a digest reference"),
        (["login", "-u", "x", "127.0.0.1:1"], "Cannot perform an interactive login from a non TTY device"),
        (["manifest", "rm", "absent"], "No such manifest: absent:latest"),
        (["search", "--limit", "1000", "x"], "Limit 1000 is outside the range of [1, 100]"),
    ],
)
def test_what_cannot_be_done(rootless: Installation, words: list[str], said: str) -> None:
    done = rootless(*words, check=1)
    assert said in done.stderr.decode()
    assert b"Using default tag" not in done.stdout or "invalid" not in said


def test_what_can_be_no_image_is_not_pulled(rootless: Installation) -> None:
    done = rootless("run", "busybox:", check=125)
    assert done.stderr.startswith(b"rootless: invalid reference format: 'busybox:'")


def test_a_certificate_authority_of_one_s_own(secured: tuple[str, Path], tmp_path: Path) -> None:
    """certs.d, seen from where loopback may not do without: the context is asked whether it knows the server."""
    from rootless.registry.certificates import tls_context

    address, certificate = secured
    (tmp_path / address).mkdir()
    shutil.copy(certificate, tmp_path / address / "own.crt")
    import socket
    import ssl

    host, _, port = address.partition(":")
    for directories, good in (((tmp_path,), True), ((), False)):
        context = tls_context(address, directories, verify=True)
        with socket.create_connection((host, int(port))) as plain:
            if good:
                context.wrap_socket(plain, server_hostname=host).close()
            else:
                with pytest.raises(ssl.SSLCertVerificationError):
                    context.wrap_socket(plain, server_hostname=host)
