"""What a user is told of errors that nobody has put into words."""

from __future__ import annotations

import errno
import os

from rootless.model.errors import unforeseen


def test_a_full_disk_is_no_bug() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/tmp/new-1")
    assert unforeseen(full) == (
        "No space left on device (/data/tmp/new-1); make room (rootless image prune, rootless rm) or set data_root to "
        "a larger disk"
    )
    assert unforeseen(OSError(errno.EDQUOT, "Disk quota exceeded")).startswith("Disk quota exceeded; make room")


def test_anything_else_is() -> None:
    assert unforeseen(KeyError("x")) == "internal error: KeyError: 'x'"
    assert unforeseen(OSError(errno.EIO, "Input/output error")).startswith("internal error: OSError: ")
