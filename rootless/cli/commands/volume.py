"""`rootless volume …`."""

from __future__ import annotations

from rootless.cli.command import Group
from rootless.cli.table import VOLUME

command = Group("volume", "Work with volumes", VOLUME)
