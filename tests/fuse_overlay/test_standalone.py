"""`rootless-fuse-overlay` as it is called: by hand in a user namespace and outside of one, by mount(8), by podman."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse_overlay import open_tree
from fuse_overlay.image_server import ImageServer
from fuse_overlay.options import parse
from fuse_overlay.presented import Presentation, PresentingDevice
from fuse_overlay.wire import structs as w
from tests.fuse_overlay.mounting import MNT_DETACH, enter_namespaces, in_child, libc
from tests.fuse_overlay.test_layers import F, archive, write_layer

TOP = Path(__file__).parent.parent.parent


def call(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    return subprocess.run(
        [sys.executable, "-m", "fuse_overlay", *words], capture_output=True, text=True, timeout=30, cwd=cwd,
        env=environment, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("upperdir=u,workdir=w", "no lower directory"),
        ("lowerdir=a,upperdir=u", "belong together"),
        ("lowerdir=a,workdir=w", "belong together"),
        ("lowerdir=a,frobnicate=1", "'frobnicate' is not known"),
        ("lowerdir=a,plugins=x.so", "'plugins' is not supported"),
        ("lowerdir=//plugin//a", "not supported"),
        ("lowerdir=a,uidmapping=0:1000:1", "'uidmapping' is not supported"),
        ("lowerdir=a,gidmapping=0:0", "not a list"),
        ("lowerdir=a,squash_to_uid=-1", "not an id"),
        ("lowerdir=a,squash_to_uid=x", "not an id"),
        ("lowerdir=a,xattr_permissions=2", "'xattr_permissions' is not supported"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused_by_name(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(text)


def test_options() -> None:
    assert not parse("lowerdir=a,writeback=0").writeback
    assert parse("lowerdir=a,writeback=1").writeback
    options = parse(r"lowerdir=/a\:b:/c\,d,upperdir=u,workdir=w,,volatile,noacl,nosuid,nodev,squash_to_root,fsync=1")
    assert options.lower == ("/a:b", "/c,d")
    assert (options.upper, options.work, options.read_only, options.volatile) == ("u", "w", False, True)
    assert (options.acl, options.flags, options.squash) == (False, 6, (0, 0))
    assert parse("lowerdir=a,squash_to_root,squash_to_gid=5").squash == (0, 5)
    assert parse("lowerdir=a,uidmapping=0:0:65536").read_only


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("low", "low/d", "up", "work", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "low/a").write_text("low")
    (tmp_path / "low/d/f").write_text("f")
    write_layer(tmp_path / "layer", archive(("d/f", F, b"layer", ""), ("tar", F, b"tar", "")))
    (tmp_path / "file.tar").write_bytes(
        archive((".wh.a", F, b"", ""), ("d/.wh..wh..opq", F, b"", ""), ("b", F, b"b", ""))
    )
    return tmp_path


@contextlib.contextmanager
def mounted(place: Path, options: str, *words: str) -> Iterator[Path]:
    """In the caller's user namespace, with paths relative to `place`, as podman gives them."""
    done = call(*words, "-o", options, "merged", cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    try:
        yield place / "merged"
    finally:
        libc.umount2(os.fsencode(place / "merged"), MNT_DETACH)


@pytest.mark.kernel
def test_in_a_user_namespace(place: Path) -> None:
    def child() -> None:
        enter_namespaces()
        with mounted(place, "lowerdir=low,upperdir=up,workdir=work") as merged:
            (merged / "new").write_text("new")
            with open(merged / "a", "a") as file:
                file.write(" and more")
            (merged / "d/f").unlink()
            assert sorted(os.listdir(merged)) == ["a", "d", "new"]
        with mounted(place, "lowerdir=low,upperdir=up,workdir=work") as merged:
            assert (merged / "a").read_text() == "low and more"
            assert os.listdir(merged / "d") == []
        assert (place / "low/a").read_text() == "low"
        with mounted(place, "lowerdir=up:low") as merged:  # read-only, of what the union has written
            assert sorted(os.listdir(merged)) == ["a", "d", "new"]
            with pytest.raises(OSError, match="Read-only"):
                (merged / "x").write_text("x")

    in_child(child)


@pytest.mark.kernel
def test_tars_between_directories(place: Path) -> None:
    def child() -> None:
        enter_namespaces()
        with mounted(place, "lowerdir=file.tar:layer") as merged:  # tars alone
            assert sorted(os.listdir(merged)) == ["b", "d", "tar"]
            assert os.listdir(merged / "d") == []
        with mounted(place, "lowerdir=file.tar:low") as merged:  # whiteouts of a tar hide what a directory has
            assert sorted(os.listdir(merged)) == ["b", "d"]
            assert os.listdir(merged / "d") == []
        with mounted(place, "lowerdir=layer:low,upperdir=up,workdir=work") as merged:
            assert (merged / "d/f").read_text() == "layer"
            assert (merged / "a").read_text() == "low"
            (merged / "tar").write_text("changed")
            assert (merged / "tar").read_text() == "changed"
        (place / "root.tar").write_bytes(archive((".wh..wh..opq", F, b"", ""), ("new", F, b"", "")))
        for options in ("root.tar:layer", "root.tar:low", "layer:root.tar:low,upperdir=up,workdir=work"):
            with mounted(place, f"lowerdir={options}") as merged:  # all below the marker in a root is hidden
                assert sorted(os.listdir(merged)) == (["d", "new", "tar"] if "up" in options else ["new"])
                assert not (merged / "a").exists()
        (place / "more.tar").write_bytes(archive(("only/.wh.nothing", F, b"", ""), ("only/x", F, b"", "")))
        with mounted(place, "lowerdir=more.tar:low") as merged:  # a whiteout in a directory that is nowhere else
            assert os.listdir(merged / "only") == ["x"]
        (place / "layer/index").write_bytes(b"damaged")
        with mounted(place, "lowerdir=layer") as merged:
            assert (merged / "tar").read_text() == "tar"

    in_child(child)


def test_squashed_and_with_one_link(place: Path) -> None:
    """Of ids that exist here the kernel would show one: so what is written to the device is looked at."""
    (place / "layer/index").rename(place / "layer/tree")
    reading, writing = os.pipe()
    device = PresentingDevice(writing, Presentation(77, 88, one_link=True))
    server = ImageServer(device, open_tree(place / "layer/tree", [place / "layer"]), 1)

    def ask(opcode: int, body: bytes) -> bytes:
        request = w.IN_HEADER.pack(w.IN_HEADER.size + len(body), opcode, 7, 1, 0, 0, 0, 0, 0) + body
        device.answer(server.handlers, bytearray(request), len(request))
        return os.read(reading, 65536)[w.OUT_HEADER.size :]

    listing = ask(w.READDIRPLUS, w.READ_IN.pack(0, 0, 4096))
    found = [ask(w.GETATTR, bytes(16))[16:], ask(w.LOOKUP, b"d\0")[40:], ask(w.LOOKUP, b"tar\0")[40:], listing[40:]]
    found.append(listing[w.pad8(152 + len("d")) + 40 :])
    for attributes in found:
        fields = w.ATTR.unpack_from(attributes)
        assert fields[11:13] == (77, 88)
        assert fields[10] == 1
    assert ask(w.LOOKUP, b"absent\0") == w.ENTRY.pack(0, 0, w.FOREVER, w.FOREVER, 0, 0) + bytes(w.ATTR.size)


@pytest.mark.kernel
def test_a_mount_with_one_link(place: Path) -> None:
    def child() -> None:
        enter_namespaces()
        for lower in ("lowerdir=low,upperdir=up,workdir=work", "lowerdir=layer"):
            with mounted(place, f"{lower},squash_to_root,static_nlink") as merged:
                assert [entry.stat().st_nlink for entry in os.scandir(merged) if entry.is_dir()] == [1]
                assert (merged / "d/f").stat().st_uid == 0

    in_child(child)


@pytest.mark.kernel
def test_errors_name_what_failed(place: Path) -> None:
    for options, complaint in (
        ("lowerdir=nowhere", "nowhere: no directory, no layer and no tar"),
        ("lowerdir=low/a", "lowerdir=low/a: unexpected end of archive"),
        ("lowerdir=low,upperdir=nowhere,workdir=work", "nowhere: No such file"),
        ("lowerdir=low,x=y", "option 'x' is not known"),
    ):
        done = call("-o", options, "merged", cwd=place)
        assert done.returncode == 1
        assert done.stderr.startswith("rootless-fuse-overlay: ")
        assert complaint in done.stderr
    assert "no directory" in call("-o", "lowerdir=low", "nowhere", cwd=place).stderr
    assert not os.path.ismount(place / "merged")


@pytest.mark.kernel
@pytest.mark.skipif(shutil.which("fusermount3") is None, reason="fusermount3 is not installed")
@pytest.mark.parametrize(
    "options", ["lowerdir=layer", "lowerdir=layer:low", "lowerdir=layer:low,upperdir=up,workdir=work"]
)
def test_outside_of_a_user_namespace(place: Path, options: str) -> None:
    done = call("-o", options, "merged", cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    try:
        assert (place / "merged/tar").read_text() == "tar"
        if "upperdir" in options:
            (place / "merged/new").write_text("new")
            assert (place / "up/new").read_text() == "new"
    finally:
        subprocess.run(["fusermount3", "-u", "-z", place / "merged"], check=True)
