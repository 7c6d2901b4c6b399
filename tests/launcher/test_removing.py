"""Trees of removed containers: several removals at once each take all of the trash."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from rootless.launcher.removals import remove_tree


def test_a_tree_that_another_removal_takes_as_well_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    (tree / "directory").mkdir(parents=True)
    for name in ("a", "directory/b", "directory/c"):
        (tree / name).touch()
    unlink = os.unlink

    def after_another(name: str, *, dir_fd: int | None = None) -> None:
        unlink(name, dir_fd=dir_fd)
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", after_another)
    remove_tree(tree)
    monkeypatch.undo()
    assert not tree.exists()


def test_a_directory_that_another_removal_has_taken_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()

    def exists(_: Path) -> bool:
        shutil.rmtree(tree)  # between the look and the removal
        return True

    monkeypatch.setattr(Path, "exists", exists)
    remove_tree(tree)
    assert not os.path.lexists(tree)
