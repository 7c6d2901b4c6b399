"""Challenges as registries write them."""

from __future__ import annotations

import pytest

from rootless.registry.authorization import parse_challenge
from rootless.registry.client import Patience


@pytest.mark.parametrize(
    ("header", "kind", "values"),
    [
        ('Basic realm="here"', "basic", {"realm": "here"}),
        (
            'Bearer realm="https://a/token",service="s",scope="repository:x:pull,push"',
            "bearer",
            {"realm": "https://a/token", "service": "s", "scope": "repository:x:pull,push"},
        ),
        ("bearer realm=https://a , service=s", "bearer", {"realm": "https://a", "service": "s"}),
        ('Basic realm="b", Bearer realm="https://a"', "bearer", {"realm": "https://a"}),
        ("Negotiate", "", {}),
        ("", "", {}),
    ],
)
def test_challenges(header: str, kind: str, values: dict[str, str]) -> None:
    found = parse_challenge(header)
    assert found.kind == kind
    assert dict(found.values) == values


def test_patience() -> None:
    patience = Patience(0.5, 4)
    assert [patience.seconds(failures) for failures in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, None]
    assert patience.seconds(1, "7") == 7.0
    assert patience.seconds(1, "100000") == 0.5
    assert patience.seconds(1, "3000") == 60.0
    assert patience.seconds(1, "Wed, 21 Oct 2026 07:28:00 GMT") == 0.5
