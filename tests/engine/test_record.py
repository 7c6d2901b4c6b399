from __future__ import annotations

from pathlib import Path

import pytest

from rootless.engine.record import Records, State, new_id, new_name
from rootless.engine.volumes import Volumes
from rootless.model.errors import Conflict, InvalidParameter, NotFound
from rootless.settings import Settings
from tests.engine.test_creation import record


@pytest.fixture
def records(tmp_path: Path) -> Records:
    made = Records(tmp_path)
    made.prepare()
    return made


def test_what_is_written_is_read_again(records: Records) -> None:
    made = record({"HostConfig": {"Binds": ["/a:/b"]}})
    records.add(made)
    assert list(records.load()) == [(made, State())]
    state = State("running", 7, ports=[(80, "tcp", "0.0.0.0", 8080)])
    records.save_state(made.id, state)
    assert list(records.load()) == [(made, state)]


def test_no_short_id_looks_like_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = iter(("288410817321" + "a" * 52, "28841081732b" + "0" * 52))
    monkeypatch.setattr("rootless.engine.record.secrets.token_hex", lambda _: next(chance))
    assert new_id().startswith("28841081732b")


def test_a_container_half_made_or_damaged_is_put_away(records: Records) -> None:
    (records.containers / "half" / "upper").mkdir(parents=True)
    damaged = records.containers / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text('{"id": 1')
    assert list(records.load()) == []
    assert sorted(path.name for path in records.discarded()) == ["damaged", "half"]


def test_removing_is_one_rename(records: Records) -> None:
    made = record({})
    for _ in range(2):  # also where the trash has one of that name
        records.add(made)
        records.discard(made.id)
    assert list(records.load()) == []
    assert len(records.discarded()) == 2


def test_names_are_new(tmp_path: Path) -> None:
    names: set[str] = set()
    for _ in range(100):
        names.add(new_name(names))
    assert len(names) == 100
    assert len(new_id()) == 64


def test_volumes(tmp_path: Path) -> None:
    volumes = Volumes(Settings(tmp_path, tmp_path, tmp_path))
    with pytest.raises(InvalidParameter, match="invalid volume name"), volumes.making() as making:
        making.path(making.new() and "../up")
    assert volumes.all() == []
    with volumes.making() as making:
        assert making.path("kept").endswith("/kept/_data")
    assert [volume["Name"] for volume in volumes.all()] == ["kept"]
    with pytest.raises(Conflict, match="volume is in use"):
        volumes.remove("kept", {"kept": "c"})
    volumes.remove("kept", {})
    assert volumes.all() == []
    assert len(volumes.discarded()) == 1
    with pytest.raises(NotFound, match="no such volume"):
        volumes.remove("kept", {})
