"""Layers for the lockstep: made at random, as directories and as the tars of an image."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from pathlib import Path


def fill(top: Path, content: dict[str, bytes | None]) -> None:
    """A layer of these paths, as far as they fit together; None is a whiteout, a name ending in `link` a link."""
    for path, data in sorted(content.items()):
        at = top / path
        with contextlib.suppress(OSError):
            at.parent.mkdir(parents=True, exist_ok=True)
            if data is None:
                os.mknod(at, stat.S_IFCHR, 0)
            elif path.endswith("link"):
                at.symlink_to("f0")
            elif path.split("/")[-1].startswith("d"):
                at.mkdir(exist_ok=True)
            else:
                at.write_bytes(data)


def join(lower: Path, middle: Path, links: list[tuple[str, str, str]]) -> None:
    """Further names of files, as far as they fit. All names of one are to be seen: where an image hides some, we count
    fewer links than overlayfs does."""

    def shows(path: str) -> bool:
        above = [*(middle / path).parents][: path.count("/")]
        hides = any(os.path.lexists(at) and not stat.S_ISDIR(at.lstat().st_mode) for at in above)
        return not hides and not os.path.lexists(middle / path)  # a directory there hides a file

    for where, path, new in sorted(links):  # those across first: they may hide nothing that has several names
        source = middle / path if where == "middle" else lower / path
        target = lower / new if where == "lower" else middle / new
        with contextlib.suppress(OSError):
            if not stat.S_ISREG(source.lstat().st_mode) or (where != "middle" and not shows(path)):
                continue
            if shows(new) if where == "lower" else not os.path.lexists(lower / new):
                os.link(source, target)


def packed(top: Path, inodes: dict[tuple[int, int], str]) -> bytes:
    """The same layer as a tar of an image. `inodes`: names of what is in the layers below."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.inodes = inodes  # type: ignore[attr-defined]
        for path in sorted(top.rglob("*")):
            name = str(path.relative_to(top))
            status = path.lstat()
            if stat.S_ISCHR(status.st_mode):
                tar.addfile(tarfile.TarInfo(os.path.join(os.path.dirname(name), ".wh." + os.path.basename(name))))
                continue
            info = tar.gettarinfo(path, name)
            info.uid = info.gid = 0
            tar.addfile(info, path.open("rb") if info.isreg() else None)
    return made.getvalue()
