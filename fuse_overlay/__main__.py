"""`rootless-fuse-overlay -o lowerdir=LAYER[:LAYER…] MOUNTPOINT`: image layers, mounted read-only.

Needs a user and mount namespace of the caller's (`unshare -rm`). Layers are directories made by LayerWriter, highest
first as overlayfs has it. The options of fuse-overlayfs that are not here yet are refused by name."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from fuse_overlay import LayerError, merge_tree, mount_fuse, open_tree, serve_tree

_IGNORED = {"ro", "rw", "dev", "suid", "nodev", "nosuid", "noatime", "allow_other"}


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 mounted (and served in the background), 1 otherwise."""
    parser = argparse.ArgumentParser(
        prog="rootless-fuse-overlay", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="OPTIONS")
    parser.add_argument("-f", dest="foreground", action="store_true", help="stay in the foreground")
    parser.add_argument("mountpoint")
    arguments = parser.parse_args(argv)
    try:
        lower = _options(",".join(arguments.options))
        with tempfile.TemporaryDirectory() as directory:
            merge_tree(lower[::-1], Path(directory) / "tree")
            tree = open_tree(Path(directory) / "tree", lower[::-1])
        fd = mount_fuse(arguments.mountpoint, "rootless", read_only=True)
    except (LayerError, OSError, ValueError) as error:
        sys.stderr.write(f"rootless-fuse-overlay: {error}\n")
        return 1
    if arguments.foreground or os.fork() == 0:
        if not arguments.foreground:
            os.setsid()
        serve_tree(fd, tree, id_count=1, resume=False)
    return 0


def _options(text: str) -> list[Path]:
    lower: list[Path] = []
    for option in filter(None, text.split(",")):
        name, _, value = option.partition("=")
        if name == "lowerdir":
            lower = [Path(path) for path in value.split(":") if path]
        elif name not in _IGNORED:
            raise ValueError(f"option {name!r} is not supported yet: only read-only mounts of layers (lowerdir=)")
    if not lower:
        raise ValueError("no lowerdir= given")
    return lower


if __name__ == "__main__":
    sys.exit(main())
