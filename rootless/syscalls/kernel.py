"""The real system calls, by ctypes. The library is loaded with PyDLL: the calls are short, and a child made by a raw
clone must not come back to an interpreter whose lock was released."""

from __future__ import annotations

import ctypes
import os
import struct

from rootless.syscalls import numbers

_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
for _name, _types in {
    "mount": (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p),
    "umount2": (ctypes.c_char_p, ctypes.c_int),
    "unshare": (ctypes.c_int,),
    "setns": (ctypes.c_int, ctypes.c_int),
    "prctl": (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong),
    "sethostname": (ctypes.c_char_p, ctypes.c_size_t),
    "setdomainname": (ctypes.c_char_p, ctypes.c_size_t),
}.items():
    getattr(_libc, _name).argtypes = _types


def _check(result: int, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path) if path is not None else OSError(number, os.strerror(number))
    return result


class Kernel:
    """Performs the calls of `Syscalls`."""

    def mount(self, source: str, target: str, fstype: str, flags: int, data: str = "") -> None:
        arguments = os.fsencode(source), os.fsencode(target), fstype.encode() or None, flags, os.fsencode(data) or None
        _check(_libc.mount(*arguments), target)

    def umount(self, target: str, flags: int) -> None:
        _check(_libc.umount2(os.fsencode(target), flags), target)

    def pivot_root(self, new_root: str, put_old: str) -> None:
        _check(_syscall(numbers.SYS_PIVOT_ROOT, os.fsencode(new_root), os.fsencode(put_old)), new_root)

    def unshare(self, flags: int) -> None:
        _check(_libc.unshare(flags))

    def setns(self, fd: int, flags: int) -> None:
        _check(_libc.setns(fd, flags))

    def prctl(self, option: int, argument: int = 0, argument3: int = 0) -> None:
        _check(_libc.prctl(option, argument, argument3, 0, 0))

    def sethostname(self, name: str) -> None:
        encoded = name.encode()
        _check(_libc.sethostname(encoded, len(encoded)))

    def setdomainname(self, name: str) -> None:
        encoded = name.encode()
        _check(_libc.setdomainname(encoded, len(encoded)))

    def capset(self, effective: int, permitted: int, inheritable: int) -> None:
        header = struct.pack("=Ii", numbers.LINUX_CAPABILITY_VERSION_3, 0)
        low = 0xFFFFFFFF
        data = struct.pack(
            "=6I",
            *(s & low for s in (effective, permitted, inheritable)),
            *(s >> 32 for s in (effective, permitted, inheritable)),
        )
        _check(_syscall(numbers.SYS_CAPSET, header, data))

    def openat2(self, directory_fd: int, path: str, flags: int, mode: int, resolve: int) -> int:
        how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
        return _check(_syscall(numbers.SYS_OPENAT2, directory_fd, os.fsencode(path), how, len(how)), path)

    def syncfs(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _check(_libc.syncfs(fd), path)
        finally:
            os.close(fd)

    def close_range(self, first: int, last: int) -> None:
        _check(_syscall(numbers.SYS_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), 0))


def clone(flags: int) -> int:
    """fork() into new namespaces: the child is process 1 of a new pid namespace at once, with no process in between.
    Returns the child's pid, and 0 in the child. Only for a single-threaded process: Python's fork handlers do not
    run."""
    SIGCHLD = 17
    words = (0, flags | SIGCHLD) if numbers.CLONE_FLAGS_SECOND else (flags | SIGCHLD, 0)
    return _check(_syscall(numbers.SYS_CLONE, *(ctypes.c_ulong(word) for word in words), 0, 0, 0))
