"""`rootless container …`."""

from __future__ import annotations

from rootless.cli.command import Group
from rootless.cli.table import CONTAINER

command = Group("container", "Work with containers", CONTAINER)
