"""/etc/hosts, /etc/hostname and /etc/resolv.conf of a container: their texts (pure), and their writing.

They are files of the container's directory, bind-mounted at each start and written anew before it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path

from rootless.engine.memberships import Joined
from rootless.engine.record import Record
from rootless.settings import Settings

HOST_NAMES = ("host.docker.internal", "host.containers.internal")


def hosts(hostname: str, domainname: str, addresses: Sequence[str], extra: Sequence[str], gateway: str) -> str:
    """`addresses` are its own; `extra` are NAME:ADDRESS; the address host-gateway means `gateway`."""
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
    lines += [f"{address}\t{names}" for address in addresses or ("127.0.1.1",)]
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


def texts(record: Record, joined: Joined, settings: Settings) -> dict[str, str]:
    """File name -> its text, for a container with networks of its own (or the host's, or none)."""
    config, host = record.config, record.host_config
    if host["NetworkMode"] == "host":
        return {
            "hosts": _read("/etc/hosts") or hosts(config["Hostname"], "", (), (), ""),
            "resolv.conf": _read("/etc/resolv.conf"),
            "hostname": config["Hostname"] + "\n",
        }
    way_out = joined.way_out
    gateway = router = way_out.network.gateway if way_out else ""
    extra = [str(entry) for entry in host.get("ExtraHosts") or ()]
    if settings.host_loopback and gateway:
        extra += [f"{name}:{gateway}" for name in HOST_NAMES if not any(e.startswith(f"{name}:") for e in extra)]
    if any(entry.endswith(":host-gateway") for entry in extra):
        gateway = host_gateway(settings.host_loopback, gateway)
    addresses = [address for member in joined.members.values() for address in member.addresses]
    dns = [str(server) for server in host.get("Dns") or ()]
    if router and way_out and way_out.network.has_names and not any(ip_address(server).is_loopback for server in dns):
        dns = []  # the network's resolver asks them, and knows the names of its containers besides
    options = [str(option) for option in host.get("DnsOptions") or ()]
    host_resolv = _read("/etc/resolv.conf")
    if way_out and way_out.network.has_names and "ndots" not in host_resolv + " ".join(options):
        # as docker: names of containers are asked for as they are, before the search list is tried with them
        options = [*(options or _words(host_resolv, "options")), "ndots:0"]
    return {
        "hosts": hosts(config["Hostname"], config["Domainname"], addresses, extra, gateway),
        "resolv.conf": resolv_conf(host_resolv, router, dns, host.get("DnsSearch") or (), options),
        "hostname": config["Hostname"] + "\n",
    }


def host_gateway(loopback: bool, gateway: str) -> str:
    """The address that --add-host NAME:host-gateway stands for. With the setting host_loopback that is the gateway,
    which is the host's loopback; else the address by which others know the host: what listens there, or everywhere,
    is reached. No packet is sent."""
    if loopback:
        return gateway
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # RFC 5737: nobody's
            return str(probe.getsockname()[0])
        except OSError:
            return gateway


def write(directory: Path, files: Mapping[str, str]) -> None:
    """Write them in place (a bind mount holds the inode). Raises OSError."""
    for name, text in files.items():
        fd = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def rewrite(directory: Path, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Of a running container, whose networks have changed: a file that it has changed itself stays."""
    for name, text in after.items():
        if text != before.get(name) and _read(str(directory / name)) == before.get(name):
            write(directory, {name: text})


def _words(text: str, name: str) -> list[str]:
    """Of the lines of a resolv.conf that begin with `name`."""
    return [word for line in text.splitlines() if line.split()[:1] == [name] for word in line.split()[1:]]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
