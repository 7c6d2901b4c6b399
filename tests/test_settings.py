"""Where settings come from, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rootless import settings
from rootless.model.errors import InvalidParameter, RootlessError


def environment(home: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), **more}


def test_defaults_follow_the_xdg_directories(tmp_path: Path) -> None:
    loaded = settings.load(environment(tmp_path, XDG_DATA_HOME="/data", XDG_STATE_HOME="relative/is/ignored"))
    assert loaded.data_root == Path("/data/rootless")
    assert loaded.state_root == tmp_path / ".local/state/rootless"
    assert loaded.runtime_dir == tmp_path / "rootless"
    assert loaded.origins["data_root"] == "default"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('idle_seconds = 5\nstorage_driver = "fuse"\ninsecure_registries = ["a:5000"]\n')
    loaded = settings.load(environment(tmp_path, ROOTLESS_CONFIG=str(file), ROOTLESS_IDLE_SECONDS="7"))
    assert (loaded.idle_seconds, loaded.origins["idle_seconds"]) == (7.0, "ROOTLESS_IDLE_SECONDS")
    assert (loaded.storage_driver, loaded.origins["storage_driver"]) == ("fuse", str(file))
    assert loaded.insecure_registries == ("a:5000",)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("idle_second = 5", "unknown setting 'idle_second'"),
        ("idle_seconds = -1", "idle_seconds is -1"),
        ('storage_driver = "zfs"', "one of auto, fuse+overlay, fuse"),
        ("mtu = 10", "576 to 65520"),
        ("mtu = [", "not valid TOML"),
        ('data_root = "here"', "an absolute path"),
        ("insecure_registries = 3", "a list of strings"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(InvalidParameter, match=re.escape(complaint)) as caught:
        settings.load(environment(tmp_path, ROOTLESS_CONFIG=str(file)))
    assert str(file) in caught.value.message


def test_the_runtime_directory_must_be_private(tmp_path: Path) -> None:
    loaded = settings.load(environment(tmp_path))
    settings.ensure_runtime_dir(loaded)
    assert loaded.runtime_dir.stat().st_mode & 0o777 == 0o700
    loaded.runtime_dir.chmod(0o755)
    with pytest.raises(RootlessError, match="chmod 700"):
        settings.ensure_runtime_dir(loaded)


def test_a_link_in_place_of_the_runtime_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "rootless").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RootlessError, match="not a directory of yours"):
        settings.ensure_runtime_dir(settings.load(environment(tmp_path)))
