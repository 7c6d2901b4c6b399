"""One start of a container: what was taken for it is given back unless it succeeds. Used by `containers` alone."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

from rootless.engine.container import Container
from rootless.engine.link import Link
from rootless.engine.memberships import Joined
from rootless.engine.networks import Networks
from rootless.engine.published import BoundPort, close_ports
from rootless.engine.storage import UNION
from rootless.images.image import ImageSource
from rootless.launcher import messages
from rootless.launcher.client import LaunchFailure
from rootless.model.errors import InvalidParameter, StartError
from rootless.runtime.spec import ContainerSpec, GuestNetwork, UnionSpec


class Start:
    """`async with Start(...) as start:`; set `succeeded` once the container runs."""

    def __init__(self, link: Link, networks: Networks, container: Container) -> None:
        self._link, self._networks, self._container = link, networks, container
        self._bound: list[BoundPort] = []
        self.succeeded = False

    async def __aenter__(self) -> Start:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        close_ports(self._bound)
        if not self.succeeded:
            self._networks.release(self._container.id)

    async def lower(self, source: ImageSource, driver: str) -> str | UnionSpec:
        """What is below the container's own layer: where the image is mounted, or what is to be served.

        Raises StartError."""
        if driver == UNION and source.kind != "lazy":
            return source.union
        try:
            path = await self._link.mounted(source.mount)
            # what is not here yet comes through the image server
            return UnionSpec("mounted", path) if driver == UNION else path
        except LaunchFailure as failure:
            raise StartError(f"cannot mount the image: {failure}") from failure

    async def network(self) -> tuple[Joined, list[GuestNetwork]]:
        """Where it is on which network, and the devices to make; the networks' processes run."""
        joined = self._networks.attach(self._container.record)
        await self._networks.ready(joined)
        return joined, self._networks.guests(joined)

    async def bind(self, joined: Joined) -> list[BoundPort]:
        """Raises Conflict in docker's words."""
        self._bound = await self._networks.ports.bind(self._container.record, joined)
        return self._bound

    def check_sources(self) -> None:
        """Directories of -v are made where missing, those of --mount must be there. Raises InvalidParameter."""
        for mount in self._container.record.mounts:
            if mount["Type"] != "bind" or os.path.lexists(mount["Source"]):
                continue
            if mount.get("MustExist"):
                raise InvalidParameter(
                    f'invalid mount config for type "bind": bind source path does not exist: {mount["Source"]}'
                )
            try:
                os.makedirs(mount["Source"], 0o755, exist_ok=True)
            except OSError as error:
                raise InvalidParameter(
                    f"error while creating mount source path '{mount['Source']}': mkdir {mount['Source']}: "
                    f"{(error.strerror or '').lower()}"
                ) from error

    async def launch(self, spec: ContainerSpec) -> tuple[dict[str, Any], list[int]]:
        """Raises StartError."""
        launcher = await self._link.get()
        try:
            return await launcher.request(messages.StartContainer(spec))
        except LaunchFailure as failure:
            raise start_error(failure) from failure


def start_error(failure: LaunchFailure, doing: str = "failed to create task for container") -> StartError:
    """The launcher's failure in docker's form: its step, unless the words speak for themselves."""
    text = str(failure)
    if not text.startswith(("exec", "chdir", "unable to find user", "no command")):
        text = f"{failure.step}: {text}"
    return StartError(f"{doing}: {text}", failure.exit_code)
