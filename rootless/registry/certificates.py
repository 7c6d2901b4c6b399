"""TLS towards a registry: the system's authorities and what docker's `certs.d` directories add for one host.

certs.d/HOST[:PORT]/*.crt            authorities to trust
certs.d/HOST[:PORT]/NAME.cert, .key  a client certificate and its key"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

from rootless.model.errors import InvalidParameter


def certificate_directories(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Where `certs.d` may be: the user's own, then the machine's."""
    home = Path(environment.get("HOME") or "/")
    configured = environment.get("XDG_CONFIG_HOME", "")
    user = Path(configured) if configured.startswith("/") else home / ".config"
    return (
        user / "rootless" / "certs.d",
        user / "docker" / "certs.d",
        Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "certs.d",
        Path("/etc/docker/certs.d"),
        Path("/etc/containers/certs.d"),
    )


def tls_context(host: str, directories: Sequence[Path], *, verify: bool) -> ssl.SSLContext:
    """For "host" or "host:port". Raises InvalidParameter naming a file that cannot be used."""
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for directory in (base / host for base in directories):
        try:
            names = sorted(path.name for path in directory.iterdir())
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        for name in names:
            _load(context, directory / name, names)
    return context


def _load(context: ssl.SSLContext, path: Path, names: Sequence[str]) -> None:
    try:
        if path.suffix == ".crt":
            context.load_verify_locations(path)
        elif path.suffix == ".cert":
            if f"{path.stem}.key" not in names:
                raise InvalidParameter(f"missing key {path.stem}.key for client certificate {path}")
            context.load_cert_chain(path, path.with_suffix(".key"))
        elif path.suffix == ".key" and f"{path.stem}.cert" not in names:
            raise InvalidParameter(f"missing client certificate {path.stem}.cert for key {path}")
    except (OSError, ssl.SSLError) as error:
        raise InvalidParameter(f"cannot use the certificate {path}: {error}") from error
