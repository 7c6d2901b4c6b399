"""Which proxy a request goes through, by the environment's http_proxy, https_proxy, all_proxy and no_proxy. Pure.

The rules are those that Go's programs follow, docker among them: no_proxy takes names (with all below them), `.suffix`,
`host:port`, addresses, networks in CIDR notation and `*`; loopback is never reached through a proxy."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit


def split_host(host: str) -> tuple[str, int | None]:
    """("a:80") -> ("a", 80), ("[::1]") -> ("::1", None)."""
    match = re.fullmatch(r"(\[[^]]*\]|[^:]*)(?::(\d+))?", host)
    if not match:
        return host, None
    return match[1].strip("[]"), int(match[2]) if match[2] else None


def is_loopback(host: str) -> bool:
    """Of "host" or "host:port"."""
    name, _ = split_host(host)
    address = _address(name)
    return name == "localhost" or (address is not None and address.is_loopback)


def proxy_for(scheme: str, host: str, environment: Mapping[str, str]) -> str:
    """The URL of the proxy for "host" or "host:port", "" for none."""
    if is_loopback(host) or _excepted(scheme, host, _variable(environment, "no_proxy")):
        return ""
    proxy = _variable(environment, f"{scheme}_proxy") or _variable(environment, "all_proxy")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def without_password(url: str) -> str:
    """To be shown."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _variable(environment: Mapping[str, str], name: str) -> str:
    return (environment.get(name) or environment.get(name.upper()) or "").strip()


def _excepted(scheme: str, host: str, exceptions: str) -> bool:
    name, port = split_host(host.lower())
    port = port or (443 if scheme == "https" else 80)
    address = _address(name)
    for word in exceptions.lower().replace(",", " ").split():
        if word == "*":
            return True
        if "/" in word:
            try:
                if address is not None and address in ipaddress.ip_network(word, strict=False):
                    return True
            except ValueError:
                pass
            continue
        wanted, wanted_port = split_host(word)
        if wanted_port not in (None, port):
            continue
        if name == wanted.lstrip("*").lstrip(".") and not wanted.startswith("."):
            return True
        if address is None and name.endswith("." + wanted.lstrip("*").lstrip(".")):
            return True
    return False


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
