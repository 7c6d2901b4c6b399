"""/etc/hosts, /etc/hostname and /etc/resolv.conf of a container: their texts (pure), and their writing.

They are files of the container's directory, bind-mounted at each start and written anew before it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rootless.engine.record import Record


def hosts(hostname: str, domainname: str, address: str, extra: Sequence[str], gateway: str) -> str:
    """`extra` are NAME:ADDRESS; the address host-gateway means `gateway`."""
    lines = [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::\tip6-localnet",
        "ff00::\tip6-mcastprefix",
        "ff02::1\tip6-allnodes",
        "ff02::2\tip6-allrouters",
    ]
    for entry in extra:
        name, _, value = entry.partition(":")
        lines.append(f"{gateway if value == 'host-gateway' else value}\t{name}")
    names = f"{hostname}.{domainname} {hostname}" if domainname else hostname
    lines.append(f"{address or '127.0.1.1'}\t{names}")
    return "\n".join(lines) + "\n"


def resolv_conf(
    host_text: str, nameserver: str, dns: Sequence[str], search: Sequence[str], options: Sequence[str]
) -> str:
    """The host's file with what was asked for in place of its own; `nameserver` (the network's gateway) stands for the
    host's resolvers, which it forwards to."""
    lines = []
    servers = list(dns) or ([nameserver] if nameserver else [])
    for line in host_text.splitlines():
        word = line.split()[0] if line.split() else ""
        if (word == "nameserver" and servers) or (word == "search" and search) or (word == "options" and options):
            continue
        if word in ("nameserver", "search", "domain", "options"):
            lines.append(line)
    lines += [f"nameserver {server}" for server in servers]
    if search and list(search) != ["."]:
        lines.append("search " + " ".join(search))
    if options:
        lines.append("options " + " ".join(options))
    return "\n".join(lines) + "\n"


def write(record: Record, directory: Path, address: str, gateway: str) -> None:
    """Write the three files in place (a bind mount holds the inode). Raises OSError."""
    config, host = record.config, record.host_config
    if host["NetworkMode"] == "host":
        texts = {"hosts": _read("/etc/hosts") or hosts(config["Hostname"], "", "", (), "")}
        texts["resolv.conf"] = _read("/etc/resolv.conf")
    else:
        extra = [str(entry) for entry in host.get("ExtraHosts") or ()]
        texts = {"hosts": hosts(config["Hostname"], config["Domainname"], address, extra, gateway)}
        asked = (host.get("Dns") or (), host.get("DnsSearch") or (), host.get("DnsOptions") or ())
        texts["resolv.conf"] = resolv_conf(_read("/etc/resolv.conf"), gateway, *asked)
    texts["hostname"] = config["Hostname"] + "\n"
    for name, text in texts.items():
        fd = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
