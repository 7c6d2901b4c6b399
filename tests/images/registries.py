"""Archives of images made by hand, and a real registry server (Debian's docker-registry) on loopback."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

USER, PASSWORD = "user", "secret"
_HTPASSWD = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def tar_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def config_of(layers: Sequence[bytes], **more: Any) -> bytes:
    value = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["A=b"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]},
        **more,
    }
    return json.dumps(value).encode()


def docker_archive(layers: Sequence[bytes], tags: Sequence[str], config: bytes = b"") -> bytes:
    """What `docker save` writes."""
    config = config or config_of(layers)
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    paths = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": name, "RepoTags": list(tags), "Layers": paths}]
    members = dict(zip(paths, layers, strict=True))
    return tar_of({**members, name: config, "manifest.json": json.dumps(manifest).encode()})


@contextmanager
def registry(directory: Path, *, password: bool = False) -> Iterator[str]:
    """host:port of a server that keeps its blobs in `directory`."""
    program = shutil.which("docker-registry")
    assert program, "no docker-registry: as root, apt-get install docker-registry (./tests/run does)"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    lines = ["version: 0.1", "log: {level: error}", f"storage: {{filesystem: {{rootdirectory: {directory}/blobs}}}}"]
    lines.append(f"http: {{addr: '{address}'}}")
    if password:
        (directory / "htpasswd").write_text(_HTPASSWD)
        lines.append(f"auth: {{htpasswd: {{realm: test, path: {directory}/htpasswd}}}}")
    (directory / "registry.yml").write_text("\n".join(lines))
    server = subprocess.Popen(
        [program, "serve", str(directory / "registry.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        host, _, port = address.partition(":")
        end = time.monotonic() + 20
        while True:
            assert server.poll() is None, "docker-registry ended"
            try:
                socket.create_connection((host, int(port)), 1).close()
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.02)
        yield address
    finally:
        server.kill()
        server.wait()


def push(archive: bytes, target: str, tmp_path: Path, *options: str) -> None:
    """By skopeo, which compresses the layers."""
    file = tmp_path / f"push-{os.getpid()}.tar"
    file.write_bytes(archive)
    command = ["skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false", *options]
    subprocess.run(
        [*command, f"docker-archive:{file}", f"docker://{target}"], check=True, capture_output=True, timeout=60
    )
