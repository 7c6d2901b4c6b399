"""Temporary directories, of those that live and those that were killed."""

from __future__ import annotations

from pathlib import Path

from rootless.store import files


def test_what_lives_stays_and_what_was_left_goes_however_far_its_removal_had_come(tmp_path: Path) -> None:
    whole, half, empty = (tmp_path / f"new-{name}" for name in ("whole", "half", "empty"))
    for path in (whole, half, empty):
        path.mkdir()
    (whole / ".lock").touch()
    (whole / "layer").mkdir()
    (half / "layer").mkdir()  # killed while it was removed, which had begun with the lock
    with files.temporary_directory(tmp_path) as mine:
        (mine / "layer").mkdir()
        files.remove_leftovers(tmp_path)
        assert list(tmp_path.iterdir()) == [mine]
    assert list(tmp_path.iterdir()) == []
