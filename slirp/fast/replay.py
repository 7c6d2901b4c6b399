"""A guest's socket that is about to connect -> one of the host's that is like it, or None: it is better left alone.

Everything a program may have set before connect(2) is carried over; what cannot be, and what suggests that others know
the socket too (a duplicate, an epoll set: they would go on with the old one), leaves the socket where it is. Called by
`supervisor`."""

from __future__ import annotations

import fcntl
import functools
import os
import socket
from socket import AF_INET, AF_INET6, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, SOL_SOCKET

from slirp.fast.calls import SO_NETNS_COOKIE, has_filter

MAX_DESCRIPTORS = 256  # of a process that is searched for epoll sets: 1.5 us each
SYN_SENT, TCP_CLOSE = 2, 7  # include/net/tcp_states.h
_SO_MARK, _SO_BUF_LOCK = 36, 72  # include/uapi/asm-generic/socket.h
_SEND_LOCKED, _RECEIVE_LOCKED = 1, 2
_TCP_USER_TIMEOUT, _TCP_REPAIR, _TCP_NOTSENT_LOWAT, _TCP_FASTOPEN_CONNECT, _TCP_ULP = 18, 19, 25, 30, 31
_IP_TRANSPARENT = 19

_NUMBERS = (  # options that are one number
    (SOL_SOCKET, socket.SO_REUSEADDR),
    (SOL_SOCKET, socket.SO_REUSEPORT),
    (SOL_SOCKET, socket.SO_KEEPALIVE),
    (SOL_SOCKET, socket.SO_OOBINLINE),
    (SOL_SOCKET, socket.SO_DONTROUTE),
    (SOL_SOCKET, socket.SO_PRIORITY),
    (SOL_SOCKET, socket.SO_RCVLOWAT),
    (SOL_SOCKET, 29),  # SO_TIMESTAMP
    (SOL_SOCKET, 60),  # SO_ZEROCOPY
    (IPPROTO_TCP, socket.TCP_NODELAY),
    (IPPROTO_TCP, socket.TCP_MAXSEG),
    (IPPROTO_TCP, socket.TCP_CORK),
    (IPPROTO_TCP, socket.TCP_KEEPIDLE),
    (IPPROTO_TCP, socket.TCP_KEEPINTVL),
    (IPPROTO_TCP, socket.TCP_KEEPCNT),
    (IPPROTO_TCP, socket.TCP_SYNCNT),
    (IPPROTO_TCP, socket.TCP_LINGER2),
    (IPPROTO_TCP, socket.TCP_WINDOW_CLAMP),
    (IPPROTO_TCP, socket.TCP_QUICKACK),
    (IPPROTO_TCP, _TCP_USER_TIMEOUT),
    (IPPROTO_TCP, _TCP_NOTSENT_LOWAT),
)
_OF_VERSION = {
    AF_INET: (
        (IPPROTO_IP, socket.IP_TOS),
        (IPPROTO_IP, socket.IP_TTL),
        (IPPROTO_IP, 10),  # IP_MTU_DISCOVER
        (IPPROTO_IP, 11),  # IP_RECVERR
    ),
    AF_INET6: (
        (IPPROTO_IPV6, socket.IPV6_V6ONLY),
        (IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS),
        (IPPROTO_IPV6, socket.IPV6_TCLASS),
        (IPPROTO_IPV6, 23),  # IPV6_MTU_DISCOVER
        (IPPROTO_IPV6, 25),  # IPV6_RECVERR
    ),
}
_BYTES = (  # a structure or a name
    (SOL_SOCKET, socket.SO_LINGER, 8),
    (SOL_SOCKET, socket.SO_RCVTIMEO, 16),
    (SOL_SOCKET, socket.SO_SNDTIMEO, 16),
    (IPPROTO_TCP, socket.TCP_CONGESTION, 16),
)
_UNUSUAL = (  # what is not as here leaves a socket on the stack
    (SOL_SOCKET, _SO_MARK, 4),
    (SOL_SOCKET, socket.SO_BINDTODEVICE, 16),
    (IPPROTO_TCP, _TCP_FASTOPEN_CONNECT, 4),
    (IPPROTO_TCP, _TCP_REPAIR, 4),
    (IPPROTO_TCP, _TCP_ULP, 16),
)


def is_of_host(sock: socket.socket) -> bool:
    """Whether a socket is one that we have put in another's place before."""
    return sock.getsockopt(SOL_SOCKET, SO_NETNS_COOKIE, 8) == _own_cookie()


def is_ordinary(sock: socket.socket, thread: int, fd: int) -> bool:
    """Whether a guest's socket, which is `fd` to it, can be replaced: TCP, not bound, connected or listening, nothing
    set that could not be set again, and nobody else has it. Raises OSError."""
    if sock.type != socket.SOCK_STREAM or sock.proto != IPPROTO_TCP or state(sock) != TCP_CLOSE:
        return False
    own = sock.getsockname()
    if own[1] or own[0] not in ("0.0.0.0", "::"):
        return False
    flags = fcntl.fcntl(sock, fcntl.F_GETFL)
    if flags & os.O_ASYNC:
        return False
    if not flags & os.O_NONBLOCK and any(sock.getsockopt(SOL_SOCKET, socket.SO_SNDTIMEO, 16)):
        return False  # a limit of connect(2) too
    if has_filter(sock) or sock.getsockopt(IPPROTO_IP, socket.IP_OPTIONS, 40):
        return False
    if any(sock.getsockopt(level, option, size).strip(b"\0") for level, option, size in _UNUSUAL):
        return False
    if sock.getsockopt(IPPROTO_IP, _IP_TRANSPARENT):
        return False
    return not _known_to_others(sock, thread, fd)


def state(sock: socket.socket) -> int:
    """Of the connection; TCP_INFO begins with it."""
    return sock.getsockopt(IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def like(sock: socket.socket) -> socket.socket:
    """A socket of this network namespace with a guest's options, not blocking. Raises OSError."""
    family = socket.AddressFamily(sock.family)
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, IPPROTO_TCP)
    try:
        numbers, structures = _defaults(family)
        for level, option, usual in numbers:
            value = sock.getsockopt(level, option)
            if value != usual:
                made.setsockopt(level, option, value)
        for level, option, size, text in structures:
            found = sock.getsockopt(level, option, size)
            if found != text:
                made.setsockopt(level, option, found)
        locked = sock.getsockopt(SOL_SOCKET, _SO_BUF_LOCK)
        for bit, option in ((_SEND_LOCKED, socket.SO_SNDBUF), (_RECEIVE_LOCKED, socket.SO_RCVBUF)):
            if locked & bit:  # the kernel doubles what it is given, socket(7)
                made.setsockopt(SOL_SOCKET, option, sock.getsockopt(SOL_SOCKET, option) // 2)
    except BaseException:
        made.close()
        raise
    return made


def closes_on_exec(thread: int, fd: int) -> bool:
    """Raises OSError."""
    with open(f"/proc/{thread}/fdinfo/{fd}", "rb") as file:
        for line in file:
            if line.startswith(b"flags:"):
                return bool(int(line.split()[1], 8) & os.O_CLOEXEC)
    return False


def _known_to_others(sock: socket.socket, thread: int, fd: int) -> bool:
    """Whether the process has it in an epoll set or under another number too, or it would take long to tell."""
    inode = os.fstat(sock.fileno()).st_ino
    link, own = f"socket:[{inode}]", str(fd)
    names = os.listdir(f"/proc/{thread}/fd")
    if len(names) > MAX_DESCRIPTORS:
        return True
    for name in names:
        try:
            found = os.readlink(f"/proc/{thread}/fd/{name}")
            if found == link and name != own:
                return True
            if found == "anon_inode:[eventpoll]":
                with open(f"/proc/{thread}/fdinfo/{name}") as file:
                    if f" ino:{inode:x} " in file.read():
                        return True
        except FileNotFoundError:
            continue
    return False


@functools.cache
def _own_cookie() -> bytes:
    with socket.socket() as sock:
        return sock.getsockopt(SOL_SOCKET, SO_NETNS_COOKIE, 8)


@functools.cache
def _defaults(
    family: socket.AddressFamily,
) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int, bytes]]]:
    """What a new socket has, of all options that this kernel knows."""
    numbers, structures = [], []
    with socket.socket(family, socket.SOCK_STREAM, IPPROTO_TCP) as sock:
        for level, option in (*_NUMBERS, *_OF_VERSION[family]):
            try:
                numbers.append((level, option, sock.getsockopt(level, option)))
            except OSError:
                continue
        for level, option, size in _BYTES:
            structures.append((level, option, size, sock.getsockopt(level, option, size)))
    return numbers, structures
