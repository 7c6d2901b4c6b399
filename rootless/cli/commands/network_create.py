"""`rootless network create`."""

from __future__ import annotations

from typing import Any

from rootless.cli.command import command as declare
from rootless.cli.command import flag, switch
from rootless.cli.env_files import mapping
from rootless.cli.invocation import Invocation
from rootless.model.errors import InvalidParameter


@declare("create", "NETWORK", (1, 1))
@switch("--attachable", help="Containers may be connected by hand")
@flag("--aux-address", multiple=True, help="Address the network is not to give out, name=address")
@flag("-d", "--driver", default="bridge", help="Driver of the network")
@flag("--gateway", multiple=True, help="Gateway of a subnet")
@switch("--internal", help="No way out")
@flag("--ip-range", multiple=True, help="Part of the subnet to give addresses from")
@flag("--ipam-driver", default="default", help="Driver that gives addresses")
@flag("--ipam-opt", multiple=True, help="Option of that driver, name=value")
@switch("--ipv4", default=True, help="Give IPv4 addresses")
@switch("--ipv6", help="Give IPv6 addresses")
@flag("--label", multiple=True, help="Label, name=value")
@flag("-o", "--opt", multiple=True, help="Option of the driver, name=value")
@flag("--scope", default="", hidden=True, help="Only local here")
@flag("--subnet", multiple=True, help="Subnet, address/bits")
def command(invocation: Invocation, args: tuple[str, ...], **options: Any) -> None:
    """Make a network"""
    body = {
        "Name": args[0],
        "Driver": options["driver"],
        "Attachable": options["attachable"],
        "Internal": options["internal"],
        "EnableIPv4": options["ipv4"],
        "EnableIPv6": options["ipv6"],
        "Scope": options["scope"],
        "Options": mapping(options["opt"]),
        "Labels": mapping(options["label"]),
        "IPAM": {
            "Driver": options["ipam_driver"],
            "Options": mapping(options["ipam_opt"]),
            "Config": subnets(options["subnet"], options["gateway"], options["ip_range"], options["aux_address"]),
        },
    }
    made = invocation.client.call("POST", "/networks/create", value=body)
    if made.get("Warning"):
        invocation.complain(f"WARNING: {made['Warning']}")
    invocation.say(made["Id"])


def subnets(
    networks: tuple[str, ...], gateways: tuple[str, ...], ranges: tuple[str, ...], others: tuple[str, ...]
) -> list[dict[str, Any]]:
    """IPAM.Config: each gateway, range and auxiliary address with the subnet it lies in. Raises InvalidParameter."""
    from ipaddress import IPv4Network, IPv6Network, ip_network

    rows: list[dict[str, Any]] = [{"Subnet": network} for network in networks]

    def read(flag_name: str, given: str, text: str) -> IPv4Network | IPv6Network:
        try:
            return ip_network(text, strict=False)
        except ValueError:
            needed = "invalid CIDR block notation" if flag_name in ("subnet", "ip-range") else "invalid address"
            raise InvalidParameter(f'invalid argument "{given}" for "--{flag_name}" flag: {needed}') from None

    within = [(read("subnet", text, text), row) for text, row in zip(networks, rows, strict=True)]

    def row_of(flag_name: str, given: str, text: str) -> dict[str, Any]:
        first = read(flag_name, given, text)[0]
        for subnet, row in within:
            if first in subnet:
                return row
        raise InvalidParameter(f"no matching subnet for {flag_name.removeprefix('ip-')} {text}")

    for gateway in gateways:
        row_of("gateway", gateway, gateway)["Gateway"] = gateway
    for text in ranges:
        row_of("ip-range", text, text)["IPRange"] = text
    for pair in others:
        name, _, address = pair.partition("=")
        row_of("aux-address", pair, address).setdefault("AuxiliaryAddresses", {})[name] = address
    return rows
