"""`rootless manifest …`."""

from __future__ import annotations

from rootless.cli.command import Group
from rootless.cli.table import MANIFEST

command = Group("manifest", "Work with images for several platforms", MANIFEST)
