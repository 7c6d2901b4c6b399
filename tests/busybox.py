"""The image most tests run: one static program (Debian: busybox-static) and a few files."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

BUSYBOX = Path("/bin/busybox")


def busybox_tar() -> bytes:
    """A root file system of one static program and a few files, as a tar."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:

        def add(name: str, data: bytes | None = None, mode: int = 0o755, link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.mode = mode
            if link:
                info.type, info.linkname = tarfile.SYMTYPE, link
            elif data is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data) if data is not None else None)

        for directory in ("bin", "etc", "root", "home", "var", "usr", "usr/bin"):
            add(directory)
        add("tmp", mode=0o1777)
        add("bin/busybox", BUSYBOX.read_bytes())
        applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, check=True).stdout.decode().split()
        for applet in applets:
            if applet != "busybox":
                add(f"bin/{applet}", link="busybox")
        add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nwww:x:33:33::/home:/bin/sh\n", 0o644)
        add("etc/group", b"root:x:0:\nwww:x:33:\n", 0o644)
        add("etc/not-a-program", b"x", 0o644)
        add("etc/marker", b"as it was\n", 0o644)
        add("var/big", bytes(range(256)) * (4 << 12), 0o644)
    return made.getvalue()
