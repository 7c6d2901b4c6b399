"""Archives of images made by hand, and a real registry server (Debian's docker-registry) on loopback."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

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


class TokenServer:
    """Gives tokens as a registry's token server does (distribution, "Token Authentication"): for repositories below
    `public/` to everybody, for others to USER with PASSWORD or with the refresh token REFRESH."""

    REFRESH = "a-refresh-token"

    def __init__(self, directory: Path) -> None:
        self.certificate = directory / "token.crt"
        self._key = directory / "token.key"
        command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=token".split()
        files = ["-keyout", str(self._key), "-out", str(self.certificate)]
        subprocess.run([*command, *files], check=True, capture_output=True)
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                pairs = urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query)
                query = {**dict(pairs), "scope": " ".join(value for name, value in pairs if name == "scope")}
                word = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
                given = self.headers.get("Authorization")
                if given not in (None, f"Basic {word}"):
                    self.send_error(401)
                    return
                self._answer("token", outer.token(query, given is not None))

            def do_POST(self) -> None:
                form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
                if form.get("grant_type") != "refresh_token" or form.get("refresh_token") != TokenServer.REFRESH:
                    self.send_error(401)
                    return
                self._answer("access_token", outer.token(form, True))

            def _answer(self, name: str, token: str) -> None:
                outer.asked.append(self.command)
                body = json.dumps({name: token, "expires_in": 300}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words: object) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.realm = f"http://127.0.0.1:{self._server.server_port}/token"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def token(self, query: dict[str, str], known: bool) -> str:
        """A JSON Web Token (RFC 7519) with the rights the user has of those asked for, signed with RS256."""
        access = []
        for scope in query.get("scope", "").split():
            kind, name, actions = scope.split(":", 2)
            granted = actions.split(",") if known or name.startswith("public/") else []
            access.append({"type": kind, "name": name, "actions": granted})
        now = int(time.time())
        claims = {
            "iss": "tests",
            "sub": USER if known else "",
            "aud": query.get("service", ""),
            "exp": now + 300,
            "nbf": now - 10,
            "iat": now,
            "jti": str(now),
            "access": access,
        }
        chain = "".join(self.certificate.read_text().splitlines()[1:-1])
        head = {"typ": "JWT", "alg": "RS256", "x5c": [chain]}
        text = b".".join(_base64url(json.dumps(part).encode()) for part in (head, claims))
        command = ["openssl", "dgst", "-sha256", "-sign", str(self._key)]
        signature = subprocess.run(command, input=text, check=True, capture_output=True).stdout
        return (text + b"." + _base64url(signature)).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@contextmanager
def token_server(directory: Path) -> Iterator[TokenServer]:
    server = TokenServer(directory)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def registry(
    directory: Path, *, password: bool = False, tokens: TokenServer | None = None, tls: bool = False
) -> Iterator[str]:
    """host:port of a server that keeps its blobs in `directory`. With `tls` its certificate is directory/tls.crt."""
    program = shutil.which("docker-registry")
    assert program, "no docker-registry: as root, apt-get install docker-registry (./tests/run does)"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    lines = ["version: 0.1", "log: {level: error}", f"storage: {{filesystem: {{rootdirectory: {directory}/blobs}}}}"]
    options: dict[str, object] = {"addr": address}
    if tls:
        options["tls"] = certificate(directory)
    lines.append(f"http: {json.dumps(options)}")
    if password:
        (directory / "htpasswd").write_text(_HTPASSWD)
        lines.append(f"auth: {{htpasswd: {{realm: test, path: {directory}/htpasswd}}}}")
    if tokens is not None:
        token = {
            "realm": tokens.realm,
            "service": "registry",
            "issuer": "tests",
            "rootcertbundle": str(tokens.certificate),
        }
        lines.append(f"auth: {json.dumps({'token': token})}")
    (directory / "registry.yml").write_text("\n".join(lines))
    server = subprocess.Popen(
        [program, "serve", str(directory / "registry.yml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")},  # its settings
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


def put_image(
    address: str,
    repository: str,
    tag: str,
    layers: Sequence[tuple[bytes, bytes, str]],
    *,
    schema2: bool = False,
    config: bytes = b"",
) -> str:
    """An image of (plain tar, packed, form), byte for byte as given, in a registry; returns its manifest's digest."""
    config = config or config_of([plain for plain, _, _ in layers])
    docker, oci = "application/vnd.docker.", "application/vnd.oci.image."
    config_kind = f"{docker}container.image.v1+json" if schema2 else f"{oci}config.v1+json"
    layer_kind = f"{docker}image.rootfs.diff.tar." if schema2 else f"{oci}layer.v1.tar+"
    kind = f"{docker}distribution.manifest.v2+json" if schema2 else f"{oci}manifest.v1+json"

    def described(data: bytes, media_type: str) -> dict[str, object]:
        return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": described(config, config_kind),
        "layers": [described(packed, f"{layer_kind}{form}") for _, packed, form in layers],
    }
    data = json.dumps(manifest).encode()
    with httpx.Client(base_url=f"http://{address}/v2/{repository}/", trust_env=False) as client:
        for blob in (config, *(packed for _, packed, _ in layers)):
            begun = client.post("blobs/uploads/").raise_for_status()
            url = httpx.URL(begun.headers["Location"]).copy_merge_params({"digest": sha256(blob)})
            client.put(url, content=blob, headers={"Content-Type": "application/octet-stream"}).raise_for_status()
        client.put(f"manifests/{tag}", content=data, headers={"Content-Type": kind}).raise_for_status()
    return sha256(data)


def certificate(directory: Path) -> dict[str, str]:
    """A certificate for 127.0.0.1 that is its own authority, in directory/tls.crt and tls.key."""
    files = {"certificate": str(directory / "tls.crt"), "key": str(directory / "tls.key")}
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=registry -addext subjectAltName=IP:127.0.0.1"
    out = ["-keyout", files["key"], "-out", files["certificate"]]
    subprocess.run([*command.split(), *out], check=True, capture_output=True)
    return files


def push(archive: bytes, target: str, tmp_path: Path, *options: str) -> None:
    """By skopeo, which compresses the layers."""
    file = tmp_path / f"push-{os.getpid()}.tar"
    file.write_bytes(archive)
    logins = tmp_path / "no-logins.json"  # else it looks in /run/containers, which root's podman may have closed
    logins.write_text("{}")
    command = ["skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false", f"--authfile={logins}", *options]
    done = subprocess.run([*command, f"docker-archive:{file}", f"docker://{target}"], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
