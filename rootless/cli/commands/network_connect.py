"""`rootless network connect`."""

from __future__ import annotations

from typing import Any

from rootless.cli.command import command as declare
from rootless.cli.command import flag
from rootless.cli.env_files import mapping
from rootless.cli.invocation import Invocation
from rootless.cli.types import INTEGER
from rootless.client.client import segment


@declare("connect", "NETWORK CONTAINER", (2, 2))
@flag("--alias", multiple=True, help="Further name on the network")
@flag("--driver-opt", multiple=True, help="Option of the driver, name=value")
@flag("--gw-priority", kind=INTEGER, default=0, help="The highest one is the way out")
@flag("--ip", default="", help="IPv4 address")
@flag("--ip6", default="", help="IPv6 address")
@flag("--link", multiple=True, help="Link to another container, name[:alias]")
@flag("--link-local-ip", multiple=True, help="Not supported: refused")
def command(invocation: Invocation, args: tuple[str, ...], **options: Any) -> None:
    """Connect a container to a network"""
    addresses = {"IPv4Address": options["ip"], "IPv6Address": options["ip6"], "LinkLocalIPs": options["link_local_ip"]}
    endpoint = {
        "IPAMConfig": {name: value for name, value in addresses.items() if value},
        "Aliases": list(options["alias"]),
        "Links": list(options["link"]),
        "DriverOpts": mapping(options["driver_opt"]),
        "GwPriority": options["gw_priority"],
    }
    body = {"Container": args[1], "EndpointConfig": endpoint}
    invocation.client.call("POST", f"/networks/{segment(args[0])}/connect", value=body)
