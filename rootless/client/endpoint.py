"""Which engine a command talks to: `-H`, $ROOTLESS_HOST, $DOCKER_HOST, else the user's own, which may be started.

Pure but for reading the settings, and those only where none of the three says anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rootless.model.errors import InvalidParameter
from rootless.settings import Settings, load


@dataclass(frozen=True)
class Endpoint:
    """A socket's path; `settings` where the engine behind it is our own, which may be started."""

    socket_path: str
    settings: Settings | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket_path}"


def resolve_endpoint(hosts: Sequence[str], environment: Mapping[str, str]) -> Endpoint:
    """The endpoint for the values of -H and the environment. Raises InvalidParameter."""
    if len(hosts) > 1:
        raise InvalidParameter("specify only one -H")
    host = hosts[0] if hosts else environment.get("ROOTLESS_HOST") or environment.get("DOCKER_HOST")
    if host:
        return Endpoint(socket_path(host))
    settings = load(environment)
    return Endpoint(str(settings.api_socket), settings)


def socket_path(host: str) -> str:
    """("unix:///run/docker.sock") -> "/run/docker.sock". Raises InvalidParameter."""
    scheme, separator, rest = host.partition("://")
    if not separator:
        scheme, rest = "unix", host
    if scheme != "unix":
        raise InvalidParameter(f"cannot connect to {host!r}: only unix:// sockets are supported so far")
    if not rest.startswith("/"):
        raise InvalidParameter(f"unable to parse docker host {host!r}: unix:// needs an absolute path")
    return rest
