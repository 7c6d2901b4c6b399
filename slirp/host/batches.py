"""Many datagrams with one system call: recvmmsg(2) into, and UDP_SEGMENT (udp(7)) out of a socket of the host's.

Python has no call for the first; numbers and layouts are those of include/linux/socket.h on 64-bit machines."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Iterator, Sequence

SOL_UDP, UDP_SEGMENT = 17, 103  # include/uapi/linux/udp.h
MAX_SEGMENTS = 64  # UDP_MAX_SEGMENTS of include/linux/udp.h before 6.9
MAX_BYTES = 65507
COUNT = 32
Ancillary = tuple[int, int, bytes]
_SLOT_BYTES = 1 << 16
_NAME_BYTES = 28  # struct sockaddr_in6
_DONT_WAIT = 0x40
_HEADER = struct.Struct(
    "@PIPNPNi4xI4x"
)  # struct mmsghdr: name, its length, iov, count, control, its length, flags, length
_LENGTH_AT = _HEADER.size - 8
_REFUSED = (errno.EINVAL, errno.EMSGSIZE, errno.EIO, errno.ENOPROTOOPT)


class Received:
    """Datagrams of one call. A name is the raw sockaddr, without IPv6's scope: 8 bytes for IPv4, 24 for IPv6."""

    def __init__(self) -> None:
        self._call = ctypes.CDLL(None, use_errno=True).recvmmsg
        self._data = bytearray(COUNT * _SLOT_BYTES)
        self._names = bytearray(COUNT * _NAME_BYTES)
        self._iov = bytearray(COUNT * 16)
        data, names, iov = (_address(made) for made in (self._data, self._names, self._iov))
        headers = b""
        for slot in range(COUNT):
            struct.pack_into("@PN", self._iov, slot * 16, data + slot * _SLOT_BYTES, _SLOT_BYTES)
            headers += _HEADER.pack(names + slot * _NAME_BYTES, _NAME_BYTES, iov + slot * 16, 1, 0, 0, 0, 0)
        self._fresh = headers
        self._headers = bytearray(headers)
        self._pointer = ctypes.c_void_p(_address(self._headers))
        self._view = memoryview(self._data)
        self._names_view = memoryview(self._names)

    def read(self, fd: int, name_bytes: int) -> Iterator[tuple[bytes, memoryview]]:
        """(name, payload) of what is there, at most COUNT; the payloads are gone with the next call. An error of the
        socket's is the end."""
        self._headers[:] = self._fresh
        count = self._call(fd, self._pointer, COUNT, _DONT_WAIT, None)
        for slot in range(count):
            (length,) = struct.unpack_from("I", self._headers, slot * _HEADER.size + _LENGTH_AT)
            name = slot * _NAME_BYTES
            data = slot * _SLOT_BYTES
            yield bytes(self._names_view[name : name + name_bytes]), self._view[data : data + length]


def _address(buffer: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def send(
    sock: socket.socket,
    parts: Sequence[bytes | memoryview],
    segment_bytes: int,
    target: tuple[str, int],
    ancillary: Sequence[Ancillary] = (),
) -> int:
    """Datagrams of `segment_bytes` each, but for a shorter last one, which `parts` are together; 0: one. Returns 0, or
    the errno.

    A pending ICMP error is reported by the next call whatever it sends: then once more."""
    if segment_bytes:
        size = struct.pack("@H", segment_bytes)
        for _ in range(2):
            try:
                sock.sendmsg(parts, [*ancillary, (SOL_UDP, UDP_SEGMENT, size)], 0, target)
                return 0
            except OSError as error:
                number = error.errno or errno.EIO
                if number in _REFUSED:
                    break
        else:
            return number
        # the path's MTU is too small, or its device cannot: one by one
        whole = b"".join(parts)
        for start in range(0, len(whole), segment_bytes):
            number = send(sock, [whole[start : start + segment_bytes]], 0, target, ancillary)
        return number
    number = 0
    for _ in range(2):
        try:
            sock.sendmsg(parts, ancillary, 0, target)
            return 0
        except OSError as error:
            number = error.errno or errno.EIO
    return number
