"""`rootless image …`."""

from __future__ import annotations

from rootless.cli.command import Group
from rootless.cli.table import IMAGE

command = Group("image", "Work with images", IMAGE)
