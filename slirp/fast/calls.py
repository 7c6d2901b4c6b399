"""The kernel's side of fast sockets: connect(2) of a guest reported to a supervisor (seccomp user notification), and
what the supervisor does about it. Thin, no decisions. Source: seccomp_unotify(2), include/uapi/linux/seccomp.h.

`notify_connects` is the guest's part, all else is the supervisor's."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from typing import NamedTuple

from slirp.libc import check, library

NOTIFICATION_BYTES = 80  # struct seccomp_notif
FAST_SOCKETS_BYTES = 192 << 10  # of memory for calls that wait: 2048 of them
SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h, kernel 5.14
MAX_ADDRESS_BYTES = 128  # struct sockaddr_storage

_SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SYS_CONNECT = {"x86_64": 42, "aarch64": 203}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SYS_PIDFD_GETFD = 438
_PIDFD_THREAD = os.O_EXCL  # kernel 6.9
_SECCOMP_SET_MODE_FILTER, _FILTER_FLAG_NEW_LISTENER = 1, 1 << 3
_RET_USER_NOTIF, _RET_ALLOW = 0x7FC00000, 0x7FFF0000
_NOTIF_RECV, _NOTIF_SEND, _NOTIF_ID_VALID, _NOTIF_ADDFD = 0xC0502100, 0xC0182101, 0x40082102, 0x40182103
_NOTIF_SET_FLAGS, _SYNC_WAKE_UP = 0x40082104, 1  # kernel 6.6
_FLAG_CONTINUE, _ADDFD_FLAG_SETFD = 1, 1
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # include/uapi/linux/bpf_common.h
_SO_GET_FILTER = 26
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")


class Notification(NamedTuple):
    """A call of connect(2) that waits. `thread` is a thread id in the supervisor's pid namespace."""

    id: int
    thread: int
    fd: int
    address: int
    length: int


def notify_connects() -> int:
    """From now on, connect(2) of this process and its children waits for an answer through the descriptor returned.
    Needs CAP_SYS_ADMIN in the user namespace. Other architectures' calls (i386) are not reported: they stay on the
    stack. Raises OSError where the kernel has not what fast sockets need (5.14)."""
    with socket.socket() as sock:
        sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
    machine = os.uname().machine
    if machine not in _SYS_SECCOMP:
        raise OSError(errno.ENOSYS, f"not on {machine}")
    code = [
        (_LOAD, 0, 0, 4),  # seccomp_data.arch
        (_EQUAL, 0, 3, _AUDIT_ARCH[machine]),
        (_LOAD, 0, 0, 0),  # seccomp_data.nr
        (_EQUAL, 0, 1, _SYS_CONNECT[machine]),
        (_RETURN, 0, 0, _RET_USER_NOTIF),
        (_RETURN, 0, 0, _RET_ALLOW),
    ]
    instructions = b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    program = struct.pack("@HP", len(code), ctypes.addressof(buffer))  # struct sock_fprog
    number = _SYS_SECCOMP[machine]
    return check(library().syscall(number, _SECCOMP_SET_MODE_FILTER, _FILTER_FLAG_NEW_LISTENER, program))


def receive(listener: int, where: int) -> bool:
    """The next notification to the memory at `where`, which must be zero: NOTIFICATION_BYTES. False: there is none, its
    caller has gone. Raises OSError."""
    if library().ioctl(listener, ctypes.c_ulong(_NOTIF_RECV), ctypes.c_void_p(where)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOENT, errno.EINTR):
        return False
    raise OSError(number, os.strerror(number))


def parse(data: bytes | memoryview) -> Notification:
    """NOTIFICATION_BYTES -> what of them matters."""
    id_, thread, _, _, _, _, fd, address, length, *_ = _NOTIFICATION.unpack_from(data)
    return Notification(id_, thread, fd & 0xFFFFFFFF, address, length & 0xFFFFFFFF)


def valid(listener: int, id_: int) -> bool:
    """Whether the caller still waits: what was read of its memory before was its own, then."""
    result: int = library().ioctl(listener, ctypes.c_ulong(_NOTIF_ID_VALID), struct.pack("=Q", id_))
    return result == 0


def answer(listener: int, id_: int, number: int) -> None:
    """connect(2) returns: 0, or -1 and this errno. In vain where its caller has gone."""
    library().ioctl(listener, ctypes.c_ulong(_NOTIF_SEND), struct.pack("=QqiI", id_, 0, -number, 0))


def let_go_on(listener: int, id_: int) -> None:
    """The kernel does what was asked, with whatever is in the caller's memory and behind its descriptor by then."""
    library().ioctl(listener, ctypes.c_ulong(_NOTIF_SEND), struct.pack("=QqiI", id_, 0, 0, _FLAG_CONTINUE))


def replace(listener: int, id_: int, source: int, target: int, *, close_on_exec: bool) -> None:
    """The caller's descriptor `target` becomes what `source` is here. Raises OSError."""
    request = struct.pack("=QIIII", id_, _ADDFD_FLAG_SETFD, source, target, os.O_CLOEXEC if close_on_exec else 0)
    check(library().ioctl(listener, ctypes.c_ulong(_NOTIF_ADDFD), request))


def wake_at_once(listener: int) -> None:
    """Guest and supervisor take turns, and need not be moved between processors for it. A kernel may not know."""
    library().ioctl(listener, ctypes.c_ulong(_NOTIF_SET_FLAGS), ctypes.c_ulong(_SYNC_WAKE_UP))


def read_memory(thread: int, address: int, length: int) -> bytes:
    """Of another process. Raises OSError."""
    buffer = ctypes.create_string_buffer(length)
    local = struct.pack("=QQ", ctypes.addressof(buffer), length)
    remote = struct.pack("=QQ", address, length)
    one = ctypes.c_ulong(1)
    got = check(library().process_vm_readv(thread, local, one, remote, one, ctypes.c_ulong(0)))
    return buffer.raw[:got]


def take_descriptor(thread: int, fd: int) -> int:
    """A duplicate of another process' descriptor. Raises OSError."""
    try:
        pidfd = os.pidfd_open(thread, _PIDFD_THREAD)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        pidfd = os.pidfd_open(_process_of(thread))  # its threads share their descriptors, but for a very odd one
    try:
        return check(library().syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0))
    finally:
        os.close(pidfd)


def has_filter(sock: socket.socket) -> bool:
    """Whether somebody has attached one already. The length that SO_GET_FILTER takes counts instructions, not bytes:
    only 0 is safe, which asks for their number."""
    length = ctypes.c_uint(0)
    pointer = ctypes.byref(length)
    check(library().getsockopt(sock.fileno(), socket.SOL_SOCKET, _SO_GET_FILTER, None, pointer))
    return length.value > 0


def _process_of(thread: int) -> int:
    with open(f"/proc/{thread}/status", "rb") as file:
        for line in file:
            if line.startswith(b"Tgid:"):
                return int(line.split()[1])
    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
