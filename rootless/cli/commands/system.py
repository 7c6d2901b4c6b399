"""`rootless system …`."""

from __future__ import annotations

from rootless.cli.command import Group
from rootless.cli.table import SYSTEM

command = Group("system", "Work with the engine", SYSTEM)
