"""The guest's network device: a TAP with virtio-net headers and offload. Source: include/uapi/linux/if_tun.h.

With TSO the guest hands over segments of up to 64 KiB with no checksum computed, and takes the like."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from slirp.devices.veth import open_veth

DEVICE = "/dev/net/tun"
HEADER_BYTES = 12  # struct virtio_net_hdr_v1
_TUNSETIFF = 0x400454CA
_TUNSETVNETHDRSZ = 0x400454D8
_TUNSETOFFLOAD = 0x400454D0
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6, _TUN_F_TSO_ECN, _TUN_F_USO4, _TUN_F_USO6 = 1, 2, 4, 8, 0x20, 0x40
_OFFLOAD = _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6 | _TUN_F_TSO_ECN


def open_tap(name: str, *, offload: bool = True) -> int:
    """Make the device in the current network namespace; needs CAP_NET_ADMIN there. Returns its descriptor. Without
    `offload` every frame is a packet with its checksum, slow as on a real wire.

    Raises OSError, with filename "/dev/net/tun" where that cannot be opened."""
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
        fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", HEADER_BYTES))
        if offload and not many_datagrams(fd):
            fcntl.ioctl(fd, _TUNSETOFFLOAD, _OFFLOAD)
    except OSError:
        os.close(fd)
        raise
    return fd


def open_device(name: str, mtu: int) -> int:
    """A TAP, or a veth where there can be none. Raises OSError: the TAP's, if there is neither."""
    try:
        return open_tap(name)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENODEV):
            raise
        try:
            return open_veth(name, mtu)
        except OSError as other:
            raise OSError(
                error.errno, f"{error.strerror}, and no veth pair either ({other.strerror})", DEVICE
            ) from error


def many_datagrams(fd: int) -> bool:
    """Whether a frame of this device may hold many datagrams (USO, kernel 6.2), which is switched on. False for what is
    no TAP."""
    try:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, _OFFLOAD | _TUN_F_USO4 | _TUN_F_USO6)
    except OSError:
        return False
    return True
