"""Who may import whom: `fuse_overlay` and `slirp` stand alone, `rootless` uses them by their top-level names only."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
MAY_IMPORT = {
    "fuse_overlay": {"fuse_overlay", "trio", "fuse"},
    "slirp": {"slirp", "trio", "pyroute2", "dns", "pyseccomp"},
}
PURE = [
    "fuse_overlay/wire",
    "fuse_overlay/union",
    "slirp/wire",
    "slirp/stack",
    "rootless/model",
]
FORBIDDEN_IN_PURE = {"trio", "socket", "os", "time", "random", "subprocess"}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module, inside a function or TYPE_CHECKING block) of each import in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or "", False


def modules(package: str) -> list[Path]:
    return sorted((TOP / package).rglob("*.py"))


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_the_stand_alone_packages_import_nothing_of_ours(package: str) -> None:
    allowed = MAY_IMPORT[package] | set(sys.stdlib_module_names)
    wrong = [
        f"{path}: {name}" for path in modules(package) for name, _ in imports(path) if name.split(".")[0] not in allowed
    ]
    assert not wrong


def test_rootless_uses_the_other_packages_by_their_top_level_names_only() -> None:
    wrong = [
        f"{path}: {name}"
        for path in modules("rootless")
        for name, _ in imports(path)
        if name.startswith(("fuse_overlay.", "slirp."))
    ]
    assert not wrong


@pytest.mark.parametrize("package", PURE)
def test_pure_modules_do_no_io(package: str) -> None:
    wrong = [
        f"{path}: {name}"
        for path in modules(package)
        for name, _ in imports(path)
        if name.split(".")[0] in FORBIDDEN_IN_PURE
    ]
    assert not wrong
