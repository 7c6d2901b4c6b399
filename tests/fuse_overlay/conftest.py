"""An image's tree, and the writable union over it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fuse_overlay import Tree, merge_tree, open_tree
from tests.fuse_overlay.mounting import union_server, with_mount
from tests.fuse_overlay.test_layers import D, F, H, Member, S, archive, write_layer

BIG = os.urandom(3 << 20)
Mounted = Callable[[Callable[[Path], None]], None]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    members: list[Member] = [("etc", D, b"", ""), ("etc/passwd", F, b"root:x:0:0\n", ""), ("etc/big", F, BIG, "")]
    members += [(f"usr/share/file{number}", F, b"%d" % number, "") for number in range(300)]
    members += [("names/one", F, b"one", ""), ("names/two", H, b"", "names/one")]
    layer = tmp_path / "layer"
    write_layer(layer, archive(*members, ("bin", S, b"", "usr/bin")))
    merge_tree([layer], tmp_path / "tree")
    return open_tree(tmp_path / "tree", [layer])


@pytest.fixture
def mounted(tree: Tree, tmp_path: Path) -> Mounted:
    """Call a function with the mount's path; again for another mount of the same upper."""
    serve = union_server(tmp_path, tree)
    target = tmp_path / "target"
    return lambda look: with_mount(serve, target, lambda _fd, _server: look(target), read_only=False)
