"""The names of merged directories: which are kept, and the places that listings go on from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fuse_overlay import union_listings
from fuse_overlay.directory_lower import DirectoryLower
from fuse_overlay.nodes import Directory
from fuse_overlay.union_listings import Listings
from fuse_overlay.upper import Upper


@pytest.fixture
def upper(tmp_path: Path) -> Upper:
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    return Upper(str(tmp_path / "upper"), str(tmp_path / "work"), 1)


def directory(tmp_path: Path, names: list[str], *below: str) -> Directory:
    """A directory merged of two layers."""
    layers = []
    for number, content in enumerate((names, below)):
        (tmp_path / str(number)).mkdir(parents=True)
        for name in content:
            (tmp_path / str(number) / name).touch()
        layers.append((DirectoryLower(str(tmp_path / str(number)), number, {}), 0))
    return Directory(1, None, b"", layers)


def test_a_name_keeps_its_place_while_others_come_and_go(upper: Upper, tmp_path: Path) -> None:
    made = directory(tmp_path, ["a", "b", ".wh.d"], "b", "c", "d")
    Listings(upper).load(made)
    assert set(made.names or {}) == {b"a", b"b", b"c"}
    before = made.order.copy()
    assert sorted(filter(None, before)) == [b"a", b"b", b"c"]
    made.put(b"new", 7)
    made.drop(b"b")
    made.drop(b"absent")
    made.put(b"b", 8)
    made.put(b"b", 9)
    made.drop(b"new")
    assert made.order == [None if name == b"b" else name for name in before] + [None, b"b"]
    assert made.names is not None
    assert made.names[b"b"] == 9


def test_the_listings_used_last_are_kept(upper: Upper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(union_listings, "MOST_NAMES", 6)
    listings = Listings(upper)
    first, second, third = (directory(tmp_path / f"d{at}", ["x", "y"], "z") for at in range(3))
    for _ in range(5):  # read again and again it counts once
        listings.load(first)
    listings.load(second)
    assert first.names
    listings.load(first)
    listings.load(third)
    assert first.names
    assert third.names
    assert (second.names, second.order) == (None, [])


def of_upper(tmp_path: Path, number: int, names: list[str], *below: str) -> Directory:
    """A directory of the upper, merged with one of a layer."""
    path = tmp_path / "upper" / str(number)
    path.mkdir()
    for name in names:
        (path / name).touch()
    made = directory(tmp_path / f"below{number}", list(below))
    made.in_upper = True
    made.fd = os.open(path, os.O_RDONLY)
    return made


@pytest.mark.parametrize("forgotten", [True, False])
def test_who_is_in_the_middle_of_a_listing_goes_on_there_when_it_is_loaded_anew(
    upper: Upper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: bool
) -> None:
    monkeypatch.setattr(union_listings, "MOST_NAMES", 30)
    listings = Listings(upper)
    names = [f"n{at}" for at in range(20)]
    made = of_upper(tmp_path, 7, names, "low", "back")
    listings.load(made)
    path = tmp_path / "upper" / "7"
    for name in ("late", "back"):  # the layer's was removed and is made again
        made.drop(name.encode())
        (path / name).touch()
        made.put(name.encode(), 7)
    before = made.order.copy()
    for seen in before[:8]:  # read and removed, as `rm -r` does
        if seen in map(str.encode, names):
            (path / os.fsdecode(seen or b"")).unlink()
            made.drop(seen or b"")
    if forgotten:
        listings.load(directory(tmp_path / "other", [f"o{at}" for at in range(15)]))
        assert made.names is None
        (path / "later").touch()
    listings.load(made)
    assert made.order[8:] == before[8:] + ([b"later"] if forgotten else [])


def test_what_is_gone_counts_no_more(upper: Upper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(union_listings, "MOST_NAMES", 30)
    listings = Listings(upper)
    stays, gone, more = (of_upper(tmp_path, at, [f"n{n}" for n in range(14)]) for at in range(3))
    listings.load(stays)
    listings.load(gone)
    listings.drop(gone)
    listings.load(more)
    assert stays.names
