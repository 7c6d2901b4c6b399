"""Volumes, by whole commands."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

import pytest

from tests.busybox import busybox_tar
from tests.e2e.conftest import Installation

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]


def image_with_data() -> bytes:
    """busybox and /data: 33:34, 2750, with a file, a second name of it, a link, a directory, a named pipe."""
    file = io.BytesIO(busybox_tar())
    with tarfile.open(fileobj=file, mode="a") as tar:
        for name, kind, content, mode in [
            ("data", tarfile.DIRTYPE, "", 0o2750),
            ("data/file", tarfile.REGTYPE, "content\n", 0o640),
            ("data/second", tarfile.LNKTYPE, "data/file", 0o640),
            ("data/link", tarfile.SYMTYPE, "/etc/passwd", 0o777),
            ("data/pipe", tarfile.FIFOTYPE, "", 0o600),
            ("data/sub", tarfile.DIRTYPE, "", 0o711),
            ("data/sub/inner", tarfile.REGTYPE, "inner\n", 0o4755),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.uid, member.gid, member.mtime = kind, mode, 33, 34, 1_000_000_000
            data = content.encode() if kind == tarfile.REGTYPE else b""
            member.linkname, member.size = ("" if data else content), len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture(scope="module")
def image(rootless: Installation) -> Iterator[str]:
    rootless("import", "-", "volumes-test", stdin=image_with_data())
    yield "volumes-test"
    rootless("rmi", "-f", "volumes-test")


def test_a_new_volume_takes_over_what_the_image_has_there(rootless: Installation, image: str) -> None:
    listing = "cd /data && stat -c '%n %F %u:%g %a %h %Y' . * sub/inner && cat second && readlink link"
    ours = rootless.out("run", "--rm", "-v", "taken:/data", image, "sh", "-c", listing)
    assert ours == rootless.out("run", "--rm", image, "sh", "-c", listing)
    rootless("run", "--rm", "-v", "taken:/data", image, "sh", "-c", "rm /data/file; echo mine > /data/new")
    left = rootless.out("run", "--rm", "-v", "taken:/data:ro", image, "ls", "/data").split()
    assert left == ["link", "new", "pipe", "second", "sub"]  # what has something is never filled again
    rootless("volume", "rm", "taken")


def test_a_volume_that_is_not_to_be_filled(rootless: Installation, image: str) -> None:
    assert rootless.out("run", "--rm", "-v", "bare:/data:nocopy", image, "ls", "/data") == ""
    mount = "type=volume,src=bare,dst=/data,volume-nocopy"
    assert rootless.out("run", "--rm", "--mount", mount, image, "ls", "/data") == ""
    assert rootless.out("run", "--rm", "-v", "bare:/elsewhere", image, "ls", "/elsewhere") == ""
    rootless("volume", "rm", "bare")


def test_a_volume_that_was_cut_off_is_filled_by_the_next(rootless: Installation, image: str) -> None:
    rootless("volume", "create", "cut")
    place = rootless.out("volume", "inspect", "-f", "{{.Mountpoint}}", "cut").removesuffix("/_data")
    script = f"mkdir {place}/_new && echo half > {place}/_new/file"
    rootless.run(["sh", "-c", script], None, 0, 10, {})
    assert rootless.out("run", "--rm", "-v", "cut:/data", image, "cat", "/data/file") == "content"
    rootless("volume", "rm", "cut")
