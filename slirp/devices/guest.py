"""Configures the guest's end inside its network namespace, by netlink, between clone and exec: it must be quick.

Messages are pyroute2's, encoded; the socket is a plain one: pyroute2's IPRoute costs more than the configuration.
`import pyroute2` costs 75 ms, as it imports all of the library; the three modules we use are 13 ms."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def _without_the_package_itself(name: str) -> Iterator[None]:
    """Lets modules of a package be imported without its own `__init__`, as a copy of our own: who imports the package
    later gets it whole."""
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None:
        yield
        return
    spec.loader = None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        for imported in [key for key in sys.modules if key == name or key.startswith(name + ".")]:
            del sys.modules[imported]


with _without_the_package_itself("pyroute2"):
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

_NLMSG_ERROR = 2
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE, _NLM_F_EXCL, _NLM_F_REPLACE = 1, 4, 0x400, 0x200, 0x100
_RTM_NEWLINK, _RTM_NEWADDR, _RTM_NEWROUTE = 16, 20, 24
_IFF_UP = 1
QUEUE_FRAMES = 2000  # that the guest may be ahead of the network process; 500 by default, less than a busy server sends
_IFA_F_NODAD = 2  # include/uapi/linux/if_addr.h


def loopback_up() -> None:
    """`ip link set lo up` in the current network namespace. Raises OSError."""
    _send([_link("lo")])


def configure_guest(
    name: str, mac: str, mtu: int, address4: str, gateway4: str, address6: str = "", gateway6: str = ""
) -> None:
    """Give an existing device its MAC, MTU, addresses ("172.17.0.2/16") and default routes, and bring it up.

    Raises OSError."""
    messages = [_link(name, ("IFLA_ADDRESS", mac), ("IFLA_MTU", mtu), ("IFLA_TXQLEN", QUEUE_FRAMES))]
    for address, gateway in ((address4, gateway4), (address6, gateway6)):
        if address:
            messages.append(_address(name, address))
        if gateway:
            messages.append(_default_route(name, gateway))
    _send(messages)


def set_default_routes(name: str, gateway4: str, gateway6: str = "") -> None:
    """Make the default routes go through an existing device; "" leaves that family's. Raises OSError."""
    _send([_default_route(name, gateway) for gateway in (gateway4, gateway6) if gateway])


def _link(name: str, *attributes: tuple[str, object]) -> Any:
    message = ifinfmsg()
    message["index"] = socket.if_nametoindex(name)
    message["flags"] = message["change"] = _IFF_UP
    message["attrs"] = list(attributes)
    message["header"]["type"] = _RTM_NEWLINK
    return message


def _address(name: str, address: str) -> Any:
    interface = ipaddress.ip_interface(address)
    message = ifaddrmsg()
    message["family"] = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    message["prefixlen"] = interface.network.prefixlen
    message["index"] = socket.if_nametoindex(name)
    ip = str(interface.ip)
    message["attrs"] = [("IFA_LOCAL", ip), ("IFA_ADDRESS", ip)]
    if interface.version == 4:
        message["attrs"].append(("IFA_BROADCAST", str(interface.network.broadcast_address)))
    else:
        message["flags"] = _IFA_F_NODAD  # nobody else can have it; else it could not be used for a second
    message["header"]["type"] = _RTM_NEWADDR
    return message


def _default_route(name: str, gateway: str) -> Any:
    message = rtmsg()
    message["family"] = socket.AF_INET if ipaddress.ip_address(gateway).version == 4 else socket.AF_INET6
    message["table"], message["proto"], message["scope"], message["type"] = (
        254,
        4,
        0,
        1,
    )  # main, static, universe, unicast
    message["attrs"] = [("RTA_GATEWAY", gateway), ("RTA_OIF", socket.if_nametoindex(name))]
    message["header"]["type"] = _RTM_NEWROUTE
    return message


def _send(messages: list[Any]) -> None:
    """One datagram with all messages; every one is acknowledged. Raises OSError for the first refused."""
    data = bytearray()
    for number, message in enumerate(messages, 1):
        flags = _NLM_F_REQUEST | _NLM_F_ACK
        if message["header"]["type"] == _RTM_NEWADDR:
            flags |= _NLM_F_CREATE | _NLM_F_EXCL
        elif message["header"]["type"] == _RTM_NEWROUTE:  # another network may have been the way out before
            flags |= _NLM_F_CREATE | _NLM_F_REPLACE
        message["header"]["flags"] = flags
        message["header"]["sequence_number"] = number
        message.encode()
        data += message.data
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        sock.bind((0, 0))
        sock.send(data)
        waiting = len(messages)
        while waiting:
            answer = sock.recv(65536)
            at = 0
            while at + 20 <= len(answer):
                length, kind, _, _, _, error = struct.unpack_from("=IHHIIi", answer, at)
                if kind == _NLMSG_ERROR:
                    waiting -= 1
                    if error:
                        raise OSError(-error, os.strerror(-error))
                at += max(16, (length + 3) & ~3)
