"""Signatures as cosign writes them, made with openssl."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
from pathlib import Path

import pytest
import trio

from rootless.images.pulling import pull_image
from rootless.model import reference
from rootless.model.errors import Forbidden, InvalidParameter
from rootless.registry.access import Access
from rootless.registry.configuration import Policy
from tests.images.faulty import MANIFEST, FaultyRegistry, descriptor, faulty_registry
from tests.images.registries import sha256
from tests.images.test_import import store
from tests.images.test_pull_faults import GZIP, SMALL

ANNOTATION = "dev.cosignproject.cosign/signature"


ECDSA = "EC", "-pkeyopt", "ec_paramgen_curve:P-256"
RSA = "RSA", "-pkeyopt", "rsa_keygen_bits:2048"
ED25519 = ("ED25519",)


def key_pair(directory: Path, name: str, kind: tuple[str, ...] = ECDSA) -> tuple[Path, Path]:
    private, public = directory / f"{name}.key", directory / f"{name}.pub"
    for words in (
        ["genpkey", "-algorithm", *kind, "-out", str(private)],
        ["pkey", "-in", str(private), "-pubout", "-out", str(public)],
    ):
        subprocess.run(["openssl", *words], check=True, capture_output=True)
    return private, public


def sign(server: FaultyRegistry, digest: str, private: Path, about: str = "") -> None:
    """The document as the specification has it ("Simple Signing"), and what cosign adds."""
    image = {"docker-manifest-digest": about or digest}
    identity = {"docker-reference": server.address + "/app"}
    critical = {"identity": identity, "image": image, "type": "cosign container image signature"}
    payload = json.dumps({"critical": critical, "optional": {"creator": "tests"}}).encode()
    signing = ["openssl", "dgst", "-sha256", "-sign", str(private)]
    if b"ED25519" in subprocess.run(["openssl", "pkey", "-in", private, "-noout", "-text"], capture_output=True).stdout:
        (private.parent / "payload").write_bytes(payload)
        signing = ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", str(private), "-in", f"{private.parent}/payload"]
    signature = subprocess.run(signing, input=payload, check=True, capture_output=True).stdout
    server.blobs[sha256(payload)] = payload
    layer = descriptor(payload, "application/vnd.dev.cosign.simplesigning.v1+json")
    layer["annotations"] = {ANNOTATION: base64.b64encode(signature).decode()}
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": [layer]}
    server.manifests[digest.replace(":", "-") + ".sig"] = json.dumps(manifest).encode()


@pytest.mark.parametrize("kind", [ECDSA, RSA, ED25519])
def test_only_what_is_signed_by_the_key_is_pulled(tmp_path: Path, kind: tuple[str, ...]) -> None:
    private, public = key_pair(tmp_path, "ours", kind)
    other, _ = key_pair(tmp_path, "theirs")
    (tmp_path / "no.pub").write_text("nonsense")
    images = store(tmp_path)
    trio.run(images.prepare)
    with faulty_registry() as server:
        digest = server.add("1", [(SMALL, gzip.compress(SMALL), GZIP)])
        wanted = reference.parse(f"{server.address}/app:1")

        def pull(key: Path, pattern: str = "*/app") -> None:
            access = Access(policy=Policy(signed={pattern: key}), backoff_seconds=0.001)
            trio.run(pull_image, images.layout, access, wanted, None, None, lambda message: None)

        with pytest.raises(Forbidden, match="it is not signed"):
            pull(public)
        sign(server, digest, other)
        with pytest.raises(Forbidden, match="none of its signatures is by"):
            pull(public)
        sign(server, digest, private, about="sha256:" + "1" * 64)
        with pytest.raises(Forbidden, match="none of its signatures is by"):
            pull(public)
        with pytest.raises(InvalidParameter, match=r"cannot use the public key .*no\.pub"):
            pull(tmp_path / "no.pub")
        assert images.layout.entries() == []
        sign(server, digest, private)
        pull(public)
        pull(tmp_path / "absent", "*/other")
        assert len(images.layout.entries()) == 1
