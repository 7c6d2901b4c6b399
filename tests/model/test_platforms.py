"""Platforms as users write them."""

from __future__ import annotations

import pytest

from rootless.model.errors import InvalidParameter
from rootless.model.platforms import Platform, here, mismatch, parse, rank


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("linux/amd64", Platform("linux", "amd64")),
        ("linux/arm64", Platform("linux", "arm64")),
        ("linux/arm64/v8", Platform("linux", "arm64", "v8")),
        ("linux/arm/v7", Platform("linux", "arm", "v7")),
        ("linux/x86_64", Platform("linux", "amd64")),
        ("Linux/AArch64", Platform("linux", "arm64", "v8")),
        ("arm64", Platform("linux", "arm64")),
        ("windows/amd64", Platform("windows", "amd64")),
        ("linux", Platform("linux", here().architecture)),
    ],
)
def test_parse(text: str, wanted: Platform) -> None:
    assert parse(text) == wanted
    assert parse(str(wanted)) == wanted


@pytest.mark.parametrize("text", ["", "/", "linux/", "linux//v7", "a/b/c/d", "linux/am d", "../x"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid platform"):
        parse(text)


def test_image_fields_leave_out_no_variant() -> None:
    assert Platform("linux", "amd64").image_fields() == {"architecture": "amd64", "os": "linux"}
    assert Platform("linux", "arm", "v7").image_fields()["variant"] == "v7"


def test_the_warning_of_an_image_for_another_machine() -> None:
    assert mismatch(Platform("linux", "s390x")) == [
        f"The requested image's platform (linux/s390x) does not match the detected host platform ({here()}) and no "
        "specific platform was requested"
    ]
    assert mismatch(here()) == mismatch(Platform("linux", "")) == []


def test_what_else_runs_on_a_machine() -> None:
    """As containerd's platforms package says."""
    wide, narrow = Platform("linux", "amd64"), Platform("linux", "386")
    suits = [rank(wide, wide), rank(narrow, wide)]
    assert None not in suits
    assert suits == sorted(suits, key=lambda one: one or 0, reverse=True)
    assert rank(wide, narrow) is None
    assert rank(Platform("windows", "386"), wide) is None
    arm64, armv7 = Platform("linux", "arm64", "v8"), Platform("linux", "arm", "v7")
    for other in (armv7, Platform("linux", "arm"), Platform("linux", "arm", "v5")):
        assert (rank(other, arm64) or 0) < 0
        assert rank(arm64, other) is None
    assert rank(Platform("linux", ""), Platform("linux", "riscv64")) is None
