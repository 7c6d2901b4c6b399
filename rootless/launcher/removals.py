"""RemoveTree: what belongs to subordinate ids only the launcher can remove, a child for each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rootless.launcher.connections import Connection, Connections
from rootless.launcher.processes import LaunchRefused


class Removals:
    """Below `allowed_roots` alone; `run` forks a child (Launcher)."""

    def __init__(
        self,
        peers: Connections,
        allowed_roots: tuple[Path, ...],
        run: Callable[[str, Sequence[int], Callable[[], None]], int],
    ) -> None:
        self._peers, self._allowed_roots, self._run = peers, allowed_roots, run
        self._going: dict[int, tuple[Connection, int, str]] = {}  # by the child's pid

    def start(self, connection: Connection, request_id: int, path: str) -> None:
        """Raises LaunchRefused."""
        wanted = Path(os.path.normpath(path))
        if not any(root in wanted.parents for root in self._allowed_roots):
            raise LaunchRefused("remove", 1, f"{path} is not below our directories")
        pid = self._run("rl-remove", (), lambda: remove_tree(wanted))
        self._going[pid] = connection, request_id, path

    def reaped(self, pid: int, status: int) -> bool:
        """Whether it was one of ours; who asked has the answer then."""
        going = self._going.pop(pid, None)
        if going is None:
            return False
        connection, request_id, path = going
        if status == 0:
            self._peers.reply(connection, request_id, {})
        else:
            self._peers.refuse(connection, request_id, "remove", 5, f"cannot remove {path} entirely")
        return True


def remove_tree(path: Path) -> None:
    """Root in U owns every file below; directories it may not write are opened up first. Links are never followed."""

    def open_up(function: Callable[..., Any], name: str, error: tuple[type[BaseException], object, object]) -> None:
        if issubclass(error[0], FileNotFoundError):
            return  # another removal of the same tree was faster
        parent = os.path.dirname(name)
        os.chmod(parent, 0o700)
        if os.path.isdir(name) and not os.path.islink(name):
            os.chmod(name, 0o700)
        function(name)

    if path.exists():
        shutil.rmtree(path, onerror=open_up)
