"""What the network process gives up before it reads a guest's first packet: the file system, capabilities, and all
system calls but those of its loop. A hole in a parser is then a hole into nearly nothing.

Each step may be impossible on a machine (no user namespaces, no libseccomp): the others are taken nevertheless, and
what is missing is told. Called by `run`, once, in a process with one thread."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import resource
import struct
from collections.abc import Callable

from slirp.libc import check, library

RESOLV_CONF = "/etc/resolv.conf"
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000  # include/uapi/linux/sched.h
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8  # include/uapi/linux/mount.h
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20, 0x1000, 0x4000, 1 << 18
_MNT_DETACH = 2
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442  # the same on all architectures
_OPEN_TREE_CLONE, _O_CLOEXEC, _AT_FDCWD, _AT_EMPTY_PATH, _MOVE_MOUNT_F_EMPTY_PATH = 1, 0o2000000, -100, 0x1000, 4
_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 24, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522  # include/uapi/linux/capability.h
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
_STAGE = "/proc"  # a directory there is everywhere; the new root is built over it

SYSTEM_CALLS = (
    # the loop
    "epoll_wait epoll_pwait epoll_ctl epoll_create1 poll ppoll select pselect6 sched_yield clock_gettime gettimeofday "
    "clock_nanosleep nanosleep restart_syscall "
    # devices and sockets
    "read readv write writev recvfrom recvmsg recvmmsg sendto sendmsg sendmmsg socket socketpair connect bind listen "
    "accept accept4 getsockname getpeername getsockopt setsockopt shutdown close fcntl ioctl dup dup3 pipe2 eventfd2 "
    # files: what is left of them is the host's resolv.conf
    "openat open stat fstat newfstatat lstat statx lseek readlink readlinkat access faccessat faccessat2 getdents64 "
    "getcwd "
    # memory, signals, threads, the end
    "mmap munmap mremap mprotect madvise brk futex getrandom rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack "
    "set_robust_list rseq membarrier getpid gettid tgkill getuid geteuid getgid getegid getrusage prlimit64 uname "
    "sysinfo sched_getaffinity exit exit_group"
).split()
_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6; AF_NETLINK for the C library's look at the interfaces


def confine() -> list[str]:
    """Give it all up. What could not be, as sentences."""
    missing = []
    with contextlib.suppress(ImportError, RuntimeError):  # said below
        importlib.import_module("encodings.idna")  # for getaddrinfo(3); while there are files
        importlib.import_module("pyseccomp")
    steps: list[tuple[str, Callable[[], None]]] = [
        ("core dumps", lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0))),
        ("file system", _leave_file_system),
        ("capabilities", _drop_capabilities),
        ("new privileges", lambda: _prctl(_PR_SET_NO_NEW_PRIVS, 1)),
        ("system calls", _filter_system_calls),
    ]
    for what, step in steps:
        try:
            step()
        except (OSError, RuntimeError, ImportError, KeyError) as error:
            missing.append(f"{what}: {error}")
    return missing


def _prctl(option: int, *arguments: int) -> None:
    check(library().prctl(option, *[ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]))


def _leave_file_system() -> None:
    """A mount namespace with nothing but the directory of resolv.conf in it, read-only."""
    libc = library()
    pivot_root = _SYS_PIVOT_ROOT[os.uname().machine]
    if libc.unshare(_CLONE_NEWNS):
        check(libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS))  # no capabilities: then in a user namespace of its own
    check(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    real = os.path.realpath(RESOLV_CONF)
    directory = os.path.dirname(real)
    tree = -1
    if os.path.isfile(real):
        tree = check(libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(directory), _OPEN_TREE_CLONE | _O_CLOEXEC))
    link = os.readlink(RESOLV_CONF) if os.path.islink(RESOLV_CONF) else ""
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    check(libc.mount(b"none", _STAGE.encode(), b"tmpfs", flags, b"size=64k,mode=0555"))
    os.chdir(_STAGE)
    if tree >= 0:
        os.makedirs("." + directory, exist_ok=True)
        if link:
            os.makedirs("./etc", exist_ok=True)
            os.symlink(link, "." + RESOLV_CONF)
        target = os.fsencode("." + directory)
        check(libc.syscall(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, target, _MOVE_MOUNT_F_EMPTY_PATH))
        attributes = struct.pack("QQQQ", flags | _MS_RDONLY, 0, 0, 0)  # the MOUNT_ATTR bits are these flags
        libc.syscall(_SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, len(attributes))  # kernel 5.12
        os.close(tree)
    check(libc.syscall(pivot_root, b".", b"."))
    check(libc.umount2(b".", _MNT_DETACH))
    os.chdir("/")
    check(libc.mount(None, b"/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | flags, None))


def _drop_capabilities() -> None:
    libc = library()
    for capability in range(64):
        if libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0):
            break  # the last one, or no right to
    libc.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(_PR_CAP_AMBIENT_CLEAR_ALL), 0, 0, 0)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    check(libc.syscall(_SYS_CAPSET[os.uname().machine], header, bytes(24)))


def _filter_system_calls() -> None:
    """Everything else fails with EPERM."""
    import pyseccomp  # 20 ms, and it looks for a library that may be missing: not with the rest

    allowed = pyseccomp.SyscallFilter(pyseccomp.ERRNO(1))
    for name in SYSTEM_CALLS:
        try:
            if name == "socket":
                for family in _FAMILIES:
                    allowed.add_rule(pyseccomp.ALLOW, name, pyseccomp.Arg(0, pyseccomp.EQ, family))
            else:
                allowed.add_rule(pyseccomp.ALLOW, name)
        except OSError:
            continue  # an architecture without it, or an older library
    allowed.load()
