"""cp: names, and archives from a container that means harm."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.cli.copying import from_container, split, to_container
from rootless.client import Client, Endpoint
from rootless.client.testing import Answer, FakeEngine
from rootless.model.errors import InvalidParameter, NotFound

Entry = tuple[str, bytes, str]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "api.sock") as engine:
        yield engine


def archive(*entries: Entry) -> bytes:
    """A tar of (name, type, content or link name)."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, kind, text in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            data = text.encode() if kind == tarfile.REGTYPE else b""
            info.size, info.linkname = len(data), "" if data else text
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


def copy_out(engine: FakeEngine, source: str, target: str, *entries: Entry) -> None:
    engine.answers["GET /containers/c/archive"] = Answer(raw=archive(*entries))
    from_container(Client(Endpoint(str(engine.path))), "c", source, target, follow_link=False)


DIRECTORY: list[Entry] = [("d", tarfile.DIRTYPE, ""), ("d/f", tarfile.REGTYPE, "text"), ("d/l", tarfile.SYMTYPE, "f")]


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [("/d", "there", "there/d/f"), ("/d", "new", "new/f"), ("/d/.", "there", "there/f")],
)
def test_where_files_go(engine: FakeEngine, tmp_path: Path, source: str, target: str, expected: str) -> None:
    (tmp_path / "there").mkdir()
    copy_out(engine, source, str(tmp_path / target), *DIRECTORY)
    assert (tmp_path / expected).read_text() == "text"
    assert os.readlink((tmp_path / expected).parent / "l") == "f"


def test_a_file_under_another_name(engine: FakeEngine, tmp_path: Path) -> None:
    copy_out(engine, "/f", str(tmp_path / "g"), ("f", tarfile.REGTYPE, "text"))
    assert (tmp_path / "g").read_text() == "text"
    with pytest.raises(NotFound):
        copy_out(engine, "/f", str(tmp_path / "no" / "g"), ("f", tarfile.REGTYPE, "text"))


@pytest.mark.parametrize(
    "entries",
    [
        [("d/../../out", tarfile.REGTYPE, "x")],
        [("d", tarfile.DIRTYPE, ""), ("d/l", tarfile.SYMTYPE, "OUTSIDE"), ("d/l/out", tarfile.REGTYPE, "x")],
        [("d", tarfile.DIRTYPE, ""), ("d/l", tarfile.SYMTYPE, "OUTSIDE/out"), ("d/l", tarfile.REGTYPE, "x")],
        [("d/h", tarfile.LNKTYPE, "../../secret")],
        [
            ("d", tarfile.DIRTYPE, ""),
            ("d/l", tarfile.SYMTYPE, "OUTSIDE/secret"),
            ("d/h", tarfile.LNKTYPE, "d/l"),
            ("d/h", tarfile.REGTYPE, "x"),
        ],
    ],
)
def test_nothing_gets_out_of_the_target(engine: FakeEngine, tmp_path: Path, entries: list[Entry]) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "secret").write_text("kept")
    made = [(name, kind, text.replace("OUTSIDE", str(outside))) for name, kind, text in entries]
    try:
        copy_out(engine, "/d", str(inside), *made)
    except (InvalidParameter, KeyError):
        pass
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    assert (outside / "secret").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["api.sock", "inside", "outside"]


def test_copying_in_sends_a_tar(engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("text")
    engine.answers["PUT /containers/c/archive"] = Answer(status=200)
    client = Client(Endpoint(str(engine.path)))
    to_container(client, str(tmp_path / "f"), "c", "/etc/g", follow_link=False, keep_owner=False)
    request = engine.requests("PUT", "/containers/c/archive")[0]
    assert request.query["path"] == ["/etc"]
    with tarfile.open(fileobj=io.BytesIO(request.body)) as tar:
        assert tar.getnames() == ["g"]
    with pytest.raises(FileNotFoundError):
        to_container(client, str(tmp_path / "none"), "c", "/etc", follow_link=False, keep_owner=False)


def test_names() -> None:
    assert split("web:/etc") == ("web", "/etc")
    assert split("./a:b") == ("", "./a:b")
    assert split("/a:b") == ("", "/a:b")
    assert split("plain") == ("", "plain")
