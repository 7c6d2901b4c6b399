"""The built-in image `host`: this machine's own root directory as a read-only lower layer. Nothing is downloaded.

What is private to users or alive (home, proc, run …) is left out and shown as empty directories; ids are squashed to
root by the server (fuse_overlay.serve_directory)."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
from pathlib import Path

from rootless.images.image import HOST_NAME, Image, ImageSource
from rootless.model import platforms
from rootless.runtime.spec import DEFAULT_PATH

LEFT_OUT = ("boot", "dev", "home", "lost+found", "media", "mnt", "proc", "root", "run", "sys", "tmp")
_CREATED = "1970-01-01T00:00:00Z"


def host_image() -> Image:
    """Its id is that of its configuration, so it differs between machines of other architectures only."""
    shell = "/bin/bash" if os.access("/bin/bash", os.X_OK) else "/bin/sh"
    config = {
        "created": _CREATED,
        **platforms.here().image_fields(),
        "config": {"Cmd": [shell], "Env": [f"PATH={DEFAULT_PATH}"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [{"created": _CREATED, "comment": "this machine's own root directory"}],
    }
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    return Image(id=f"sha256:{digest}", config=config, manifest_digest="", layers=(), names=(HOST_NAME,))


def host_source() -> ImageSource:
    """Left out besides: the top directory of this user's home, where that is not below /home."""
    home = Path(pwd.getpwuid(os.getuid()).pw_dir).resolve()
    own = home.parts[1:2]
    kept = {"usr", "etc", "var", "bin", "sbin", "lib", "lib64", "opt", "srv"}
    left_out = {*LEFT_OUT, *(name for name in own if name not in kept)}
    return ImageSource("host", "directory", Path("/"), exclude=tuple(sorted(left_out)))
