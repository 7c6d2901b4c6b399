"""`image mount` and `container mount`: the host's user looks inside, through fusermount3."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import Installation

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.kernel,
    pytest.mark.skipif(shutil.which("fusermount3") is None, reason="fusermount3 is not installed"),
]


def test_an_image_is_looked_at(rootless: Installation) -> None:
    path = Path(rootless.out("image", "mount", "busybox"))
    try:
        assert "root" in (path / "etc/passwd").read_text()
        assert os.access(path / "bin/busybox", os.X_OK)
        assert rootless.out("image", "mount", "busybox") == str(path)
        assert rootless.out("image", "mount").split() == [path.name.removeprefix("image-"), str(path)]
        with pytest.raises(OSError, match="Read-only"):
            (path / "new").write_text("x")
        with subprocess.Popen(["sleep", "60"], cwd=path) as user:
            refused = rootless("image", "unmount", "busybox", check=1)
            assert b"somebody is using it" in refused.stderr
            user.kill()
    finally:
        rootless("image", "unmount", "busybox")
    assert not path.exists()
    assert b"is not mounted" in rootless("image", "unmount", "busybox", check=1).stderr
    assert b"look at /" in rootless("image", "mount", "host", check=1).stderr


def test_a_running_container_is_looked_at(rootless: Installation, name: str) -> None:
    script = "rm /etc/group; echo one > /new; chmod 600 /new; echo ready; read line"
    rootless("run", "-d", "-i", "--name", name, "--network=none", "busybox", "sh", "-c", script)
    while "ready" not in rootless.out("logs", name):
        pass
    path = Path(rootless.out("container", "mount", name))
    try:
        assert (path / "new").read_text() == "one\n"
        assert not (path / "etc/group").exists()
        assert (path / "bin/busybox").stat().st_size > 0
        rootless("exec", name, "sh", "-c", "echo two > /later; chown 33:33 /later; chmod 400 /later")
        assert (path / "later").read_text() == "two\n"  # not asked for before, so not remembered as absent
        assert (path / "later").stat().st_uid in (0, 33)
        with pytest.raises(OSError, match="Read-only"):
            (path / "new").unlink()
    finally:
        rootless("container", "unmount", name)
    assert not path.exists()
