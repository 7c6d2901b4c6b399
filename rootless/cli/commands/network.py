"""`rootless network …`."""

from __future__ import annotations

from rootless.cli.command import Group
from rootless.cli.table import NETWORK

command = Group("network", "Work with networks", NETWORK)
