"""The guest's network device where /dev/net/tun cannot be opened: one end of a veth pair, and a packet socket on the
other, both in the guest's namespace. With PACKET_VNET_HDR (packet(7)) frames have the headers a TAP's have, and
segments come and go uncut; datagrams larger than the MTU must be cut by us.

The other end is seen in the guest, by the name PEER. It has no addresses, and the kernel drops what comes in there.

It does not end with the socket: `remove_veth` takes it away.

    python -m slirp.devices.veth      exits with 0 where a user can make one"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import stat
import struct
import sys

PEER = "slirp{}"
_SOL_PACKET, _PACKET_VNET_HDR_SZ = 263, 24  # linux/if_packet.h
_ETH_P_ALL = 3
_RTM_NEWLINK, _RTM_DELLINK = 16, 17
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_EXCL, _NLM_F_CREATE = 1, 4, 0x200, 0x400
_IFLA_MTU, _IFLA_IFNAME, _IFLA_LINKINFO = 4, 3, 18  # linux/if_link.h
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_NLA_F_NESTED = 0x8000
_IFF_UP, _IFF_NOARP = 1, 0x80
_RECEIVE_BYTES = 4 << 20


def open_veth(name: str, mtu: int) -> int:
    """Make the pair in the current network namespace; needs CAP_NET_ADMIN and CAP_NET_RAW there. Returns the packet
    socket, which has a header of 12 bytes before each frame. Raises OSError, of kernels before 6.4 too."""
    number = next(n for n in range(1000) if not _exists(PEER.format(n)))
    peer = PEER.format(number)
    size = _attribute(_IFLA_MTU, struct.pack("=I", mtu))
    its = _link_message(0) + _attribute(_IFLA_IFNAME, peer.encode() + b"\0") + size
    kind = _attribute(_IFLA_INFO_KIND, b"veth")
    data = _attribute(_IFLA_INFO_DATA | _NLA_F_NESTED, _attribute(_VETH_INFO_PEER | _NLA_F_NESTED, its))
    info = _attribute(_IFLA_LINKINFO | _NLA_F_NESTED, kind + data)
    body = _link_message(0) + _attribute(_IFLA_IFNAME, name.encode() + b"\0") + size + info
    _ask(body, _NLM_F_CREATE | _NLM_F_EXCL)
    with contextlib.suppress(OSError), open(f"/proc/sys/net/ipv6/conf/{peer}/disable_ipv6", "w") as file:
        file.write("1")  # else the kernel would speak there
    _ask(_link_message(_IFF_UP | _IFF_NOARP, socket.if_nametoindex(peer)))
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR_SZ, 12)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        sock.bind((peer, _ETH_P_ALL))
    except BaseException:
        sock.close()
        remove_veth(name)
        raise
    return sock.detach()


def remove_veth(name: str) -> None:
    """Of the current network namespace, with its peer; harmless where it has gone. Raises OSError."""
    if _exists(name):
        _ask(_link_message(0, socket.if_nametoindex(name)), kind=_RTM_DELLINK)


def is_packet_socket(fd: int) -> bool:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    with socket.socket(fileno=os.dup(fd)) as sock:
        return sock.family == socket.AF_PACKET


def _exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def _link_message(flags: int, index: int = 0) -> bytes:
    """struct ifinfomsg."""
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, flags)


def _attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


def _ask(body: bytes, flags: int = 0, kind: int = _RTM_NEWLINK) -> None:
    message = struct.pack("=IHHII", 16 + len(body), kind, _NLM_F_REQUEST | _NLM_F_ACK | flags, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        sock.send(message)
        (error,) = struct.unpack_from("=i", sock.recv(4096), 16)
        if error:
            raise OSError(-error, os.strerror(-error))


def _try() -> int:
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(0x10000000 | 0x40000000):  # CLONE_NEWUSER | CLONE_NEWNET
        return 1
    try:
        os.close(open_veth("eth0", 1500))
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_try())
