"""Which ids a user gets, from the texts of /etc/subuid and /etc/subgid."""

from __future__ import annotations

import pytest

from rootless.launcher import idmap


def test_ranges_follow_the_user() -> None:
    found = idmap.find(1000, 1001, "me", "you:1:2\nme:100000:65536\n1000:300000:10\n", "me:200000:65536\n")
    assert found.uids == ((0, 1000, 1), (1, 100000, 65536), (65537, 300000, 10))
    assert found.gids == ((0, 1001, 1), (1, 200000, 65536))
    assert (found.count, found.single_id) == (65537, False)
    assert found.nested_gids() == "0 0 1\n1 1 65536"


@pytest.mark.parametrize(
    ("subuid", "subgid", "missing", "reason"),
    [
        ("", "me:1:2", "", "no line for me in /etc/subuid"),
        ("me:1:2", "", "", "no line for me in /etc/subgid"),
        ("me:x:y\nme:1\n::\nme:5:0", "me:1:2", "", "no line for me in /etc/subuid"),
        ("me:1:2", "me:1:2", "newuidmap missing", "newuidmap missing"),
    ],
)
def test_without_ranges_there_is_one_id(subuid: str, subgid: str, missing: str, reason: str) -> None:
    found = idmap.find(1000, 1001, "me", subuid, subgid, missing)
    assert (found.uids, found.gids, found.count) == (((0, 1000, 1),), ((0, 1001, 1),), 1)
    assert found.reason == reason


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("newuidmap missing (Debian: package uidmap)", "apt-get install uidmap"),
        ("no line for me in /etc/subuid", "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 me"),
        ("newuidmap refused: Operation not permitted", "chmod u+s $(command -v newuidmap newgidmap)"),
    ],
)
def test_each_reason_has_its_remedy(reason: str, words: str) -> None:
    assert idmap.remedy(reason, "me").startswith(words)
