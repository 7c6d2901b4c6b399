"""How names of images are read."""

from __future__ import annotations

import pytest

from rootless.model import reference
from rootless.model.errors import InvalidParameter

D = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "name", "familiar"),
    [
        ("debian", "docker.io/library/debian:latest", "debian:latest"),
        ("debian:12", "docker.io/library/debian:12", "debian:12"),
        ("user/app", "docker.io/user/app:latest", "user/app:latest"),
        ("docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("index.docker.io/library/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
        ("localhost:5000/a/b:t", "localhost:5000/a/b:t", "localhost:5000/a/b:t"),
        ("quay.io/a/b_c__d-e.f:T", "quay.io/a/b_c__d-e.f:T", "quay.io/a/b_c__d-e.f:T"),
        ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
        (f"debian@{D}", "docker.io/library/debian:latest", f"debian@{D}"),
        (f"debian:12@{D}", "docker.io/library/debian:12", f"debian:12@{D}"),
    ],
)
def test_names_are_completed_and_shortened(text: str, name: str, familiar: str) -> None:
    found = reference.parse(text)
    assert (found.name, found.familiar) == (name, familiar)


@pytest.mark.parametrize(
    "text",
    ["", ":", "a:", "UPPER", "a//b", "a b", "-a", "a:b:c", "a@sha256:1", "a/", "/a", "a:" + "t" * 129, "../a", "a\n"],
)
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid reference format"):
        reference.parse(text)


def test_an_id_is_no_name() -> None:
    with pytest.raises(
        InvalidParameter, match=r"invalid repository name \(a{64}\), cannot specify 64-byte hexadecimal"
    ):
        reference.parse("a" * 64)
    assert reference.parse("a" * 64 + ":1").tag == "1"
