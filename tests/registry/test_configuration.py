"""The tables of config.toml about registries, and what follows from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rootless import settings
from rootless.model import reference
from rootless.model.errors import Forbidden, InvalidParameter
from rootless.registry import policy
from rootless.registry.access import Access

TEXT = """
registry_mirrors = ["hub.lab"]
[registries."docker.io"]
mirrors = ["first.lab:5000", "http://plain.lab"]
[registries."old.lab"]
insecure = true
[policy]
allow = ["docker.io/library/*", "registry.lab/*"]
deny = ["*/untrusted", "bad.lab/*"]
deny_digests = ["sha256:0000000000000000000000000000000000000000000000000000000000000000"]
signed = { "registry.lab/*" = "/keys/cosign.pub" }
"""


def loaded(tmp_path: Path, text: str) -> Access:
    (tmp_path / "config.toml").write_text(text)
    environment = {"ROOTLESS_CONFIG": str(tmp_path / "config.toml"), "HOME": str(tmp_path)}
    return Access.of(settings.load(environment), environment)


def test_endpoints(tmp_path: Path) -> None:
    access = loaded(tmp_path, TEXT)
    assert [(one.host, one.schemes, one.mirror) for one in access.endpoints("docker.io")] == [
        ("first.lab:5000", ("https",), True),
        ("plain.lab", ("http",), True),
        ("hub.lab", ("https",), True),
        ("registry-1.docker.io", ("https",), False),
    ]
    assert [one.schemes for one in access.endpoints("old.lab")] == [("https", "http")]
    assert [one.schemes for one in access.endpoints("new.lab")] == [("https",)]


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("debian", ""),
        ("someone/debian", "fits nothing of `allow`"),
        ("registry.lab/team/app", ""),
        ("registry.lab/untrusted", "fits '*/untrusted' of `deny`"),
        ("Registry.LAB/team/app", ""),
        ("bad.lab/app", "fits 'bad.lab/*' of `deny`"),
        ("BAD.lab/app", "fits 'bad.lab/*' of `deny`"),
    ],
)
def test_policy_of_names(tmp_path: Path, name: str, refused: str) -> None:
    rules = loaded(tmp_path, TEXT).policy
    if not refused:
        policy.check_name(rules, reference.parse(name))
        return
    with pytest.raises(Forbidden) as error:
        policy.check_name(rules, reference.parse(name))
    assert refused in error.value.message


def test_policy_of_digests(tmp_path: Path) -> None:
    rules = loaded(tmp_path, TEXT).policy
    policy.check_digests(rules, reference.parse("debian"), "sha256:" + "1" * 64)
    with pytest.raises(Forbidden, match="is in `deny_digests`"):
        policy.check_digests(rules, reference.parse("debian"), "sha256:" + "1" * 64, "sha256:" + "0" * 64)


@pytest.mark.parametrize(
    "text",
    [
        'registries = "x"',
        '[registries."a"]\nmirror = []',
        '[registries."a"]\nmirrors = "x"',
        '[registries."a"]\ninsecure = "yes"',
        "[policy]\nallowed = []",
        '[policy]\nsigned = { "a" = "relative" }',
        '[policy]\ndeny_digests = ["nonsense"]',
        f'[policy]\ndeny_digests = ["sha256:{"0" * 64}", "{"0" * 64}"]',
        f'[policy]\ndeny_digests = ["sha256:{"A" * 64}"]',
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidParameter, match=r"config\.toml: (registries|policy) is "):
        loaded(tmp_path, text)


def test_off_unless_configured(tmp_path: Path) -> None:
    rules: Any = loaded(tmp_path, "").policy
    assert not rules
