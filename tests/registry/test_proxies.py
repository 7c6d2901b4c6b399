"""Which proxy: the rules of Go's programs."""

from __future__ import annotations

import pytest

from rootless.registry.proxies import is_loopback, proxy_for, split_host, without_password

PROXIES = {"http_proxy": "http://plain:1", "HTTPS_PROXY": "secure:2"}


@pytest.mark.parametrize(
    ("scheme", "host", "exceptions", "proxy"),
    [
        ("https", "a.example", "", "http://secure:2"),
        ("http", "a.example", "", "http://plain:1"),
        ("https", "127.0.0.1:5000", "", ""),
        ("https", "localhost:5000", "", ""),
        ("https", "[::1]:5000", "", ""),
        ("https", "a.example", "*", ""),
        ("https", "a.example", "b.example, a.example", ""),
        ("https", "deep.a.example", "a.example", ""),
        ("https", "deep.a.example", ".a.example", ""),
        ("https", "a.example", ".a.example", "http://secure:2"),
        ("https", "not-a.example", "a.example", "http://secure:2"),
        ("https", "a.example:5000", "a.example:5000", ""),
        ("https", "a.example", "a.example:5000", "http://secure:2"),
        ("https", "a.example", "a.example:443", ""),
        ("https", "10.1.2.3", "10.0.0.0/8", ""),
        ("https", "11.1.2.3", "10.0.0.0/8,nonsense/9", "http://secure:2"),
        ("https", "10.1.2.3", "10.1.2.3", ""),
    ],
)
def test_choice(scheme: str, host: str, exceptions: str, proxy: str) -> None:
    assert proxy_for(scheme, host, {**PROXIES, "NO_PROXY": exceptions}) == proxy


def test_the_rest() -> None:
    assert proxy_for("https", "a", {"ALL_PROXY": "http://all:3"}) == "http://all:3"
    assert proxy_for("https", "a", {}) == ""
    assert without_password("http://user:secret@host:1/x") == "http://host:1/x"
    assert split_host("[::1]:80") == ("::1", 80)
    assert not is_loopback("10.0.0.1:80")
