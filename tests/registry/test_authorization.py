"""Challenges as registries write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

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


def test_a_date_after_which_to_ask_again() -> None:
    patience = Patience(0.5, 4)

    def until(seconds: float) -> float | None:
        date = datetime.now(UTC) + timedelta(seconds=seconds)
        return patience.seconds(1, format_datetime(date, usegmt=True))

    assert 30.0 < (until(50.0) or 0.0) <= 50.0
    assert until(-50.0) == 0.5
    assert until(5000.0) == 60.0
    for text in ("Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct 2015 07:28:00 GMT", "Wed", ",", "-1", "\xb2", " "):
        assert patience.seconds(1, text) == 0.5
