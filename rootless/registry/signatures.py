"""Signatures as cosign keeps them in a registry: under the tag sha256-<hex>.sig a manifest whose layers are small JSON
documents that name a manifest's digest, each with the signature in an annotation.

Source: sigstore/cosign, specs/SIGNATURE_SPEC.md. Keys: ECDSA, Ed25519, RSA, as PEM."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import trio

from rootless.model.errors import Forbidden, InvalidParameter, NotFound
from rootless.registry.documents import parse_json
from rootless.registry.media import digest_of
from rootless.registry.repository import Repository

_ANNOTATION = "dev.cosignproject.cosign/signature"
_MAX_SIGNATURES = 64


async def verify(repository: Repository, digest: str, key: Path) -> None:
    """Raises Forbidden where no signature of the manifest `digest` is good, InvalidParameter where the key is not."""
    verifier = await trio.to_thread.run_sync(_key, key)
    name = f"{repository.wanted.familiar_repository}@{digest}"
    try:
        manifest = await repository.manifest(f"{digest.replace(':', '-')}.sig")
    except NotFound:
        raise Forbidden(f"{name} is refused by policy: it is not signed (a signature by {key} is wanted)") from None
    layers = parse_json(manifest.data, "the list of signatures").get("layers")
    for layer in layers[:_MAX_SIGNATURES] if isinstance(layers, list) else ():
        annotations = layer.get("annotations") if isinstance(layer, dict) else None
        try:
            signature = base64.b64decode(str((annotations or {}).get(_ANNOTATION)), validate=True)
        except binascii.Error:
            continue
        payload = await repository.small_blob(digest_of(layer, "signature"))
        if _good(verifier, signature, payload) and _names(payload, digest):
            return
    raise Forbidden(f"{name} is refused by policy: none of its signatures is by {key}")


def _key(path: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        return load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise InvalidParameter(f"cannot use the public key {path} of the policy: {error}") from None


def _good(key: Any, signature: bytes, payload: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, payload, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, payload)
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, payload, padding.PKCS1v15(), hashes.SHA256())
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _names(payload: bytes, digest: str) -> bool:
    """Is it about this manifest?"""
    critical = parse_json(payload, "the signed document").get("critical")
    image = critical.get("image") if isinstance(critical, dict) else None
    return isinstance(image, dict) and image.get("docker-manifest-digest") == digest
