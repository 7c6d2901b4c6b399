"""ContainerSpec -> the list of steps that make the container. Pure: what is done, in which order, and why that order.

The result is performed by `perform` in the container's first process, which is root in the container's user namespace
and has its own mount, pid, network, ipc, uts and cgroup namespaces already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rootless.runtime import steps
from rootless.runtime.spec import ContainerSpec, MountSpec
from rootless.syscalls import numbers as n

DEVICE_NODES = ("null", "zero", "full", "random", "urandom", "tty")
_SAFE = n.MS_NOSUID | n.MS_NODEV | n.MS_NOEXEC
_FLAG_WORDS = {
    "ro": n.MS_RDONLY,
    "nosuid": n.MS_NOSUID,
    "nodev": n.MS_NODEV,
    "noexec": n.MS_NOEXEC,
    "sync": n.MS_SYNCHRONOUS,
    "dirsync": n.MS_DIRSYNC,
    "noatime": n.MS_NOATIME,
    "nodiratime": n.MS_NODIRATIME,
    "relatime": n.MS_RELATIME,
    "strictatime": n.MS_STRICTATIME,
}
_PROPAGATION_WORDS = {
    "private": n.MS_PRIVATE,
    "rprivate": n.MS_PRIVATE | n.MS_REC,
    "slave": n.MS_SLAVE,
    "rslave": n.MS_SLAVE | n.MS_REC,
    "shared": n.MS_SHARED,
    "rshared": n.MS_SHARED | n.MS_REC,
}
_IGNORED_WORDS = {"rw", "suid", "dev", "exec", "async", "bind", "rbind", "z", "Z", "cached", "delegated", "consistent"}


def plan(spec: ContainerSpec, *, tty_group_mapped: bool) -> list[steps.Step]:
    """All steps, in order. `tty_group_mapped`: whether gid 5 exists in the user namespace (not in single-id mode)."""
    return [
        *_network(spec),  # first: /dev/net/tun is the outer world's, out of reach after the pivot
        _root(spec),
        *_kernel_file_systems(spec, tty_group_mapped),
        *_populated(spec),  # before a volume covers another one's place
        *_volumes(spec),
        *(steps.Sysctl(name, value) for name, value in spec.sysctls),  # before /proc/sys becomes read-only
        *_protection(spec),
        *([steps.ReadOnlyRoot()] if spec.root.read_only else []),  # last of all mounts: their targets may be missing
        steps.Pivot(),
        *([steps.Names(spec.hostname, spec.domainname)] if spec.uts == "private" else []),
    ]


def files_plan(spec: ContainerSpec) -> list[steps.Step]:
    """The root and the volumes alone, for those who look at the files of a container that does not run. A volume that
    has gone is left out."""
    return [
        _root(spec),
        *(replace(step, optional=True) if isinstance(step, steps.Bind) else step for step in _volumes(spec)),
    ]


def mount_words(options: tuple[str, ...]) -> tuple[int, int, str]:
    """mount(8)'s words -> (flags, propagation, data for the file system)."""
    flags = propagation = 0
    data: list[str] = []
    for word in options:
        if word in _FLAG_WORDS:
            flags |= _FLAG_WORDS[word]
        elif word in _PROPAGATION_WORDS:
            propagation = _PROPAGATION_WORDS[word]
        elif word not in _IGNORED_WORDS and word:
            data.append(word)
    return flags, propagation, ",".join(data)


def _root(spec: ContainerSpec) -> steps.Step:
    if spec.root.union is not None:
        return steps.RootUnion(spec.root.lower)
    return steps.RootOverlay(spec.root.lower, spec.root.upper, spec.root.work)


def _network(spec: ContainerSpec) -> Iterator[steps.Step]:
    if spec.network == "private":
        yield steps.Loopback()
        for network in spec.guest_networks:
            yield steps.Tap(network)


def _kernel_file_systems(spec: ContainerSpec, tty_group_mapped: bool) -> Iterator[steps.Step]:
    if spec.pid == "private":
        yield steps.Mount("proc", "/proc", _SAFE)
    else:  # a new proc may only show a pid namespace of our own
        yield steps.Bind("/proc", "/proc")
    yield steps.Mount("tmpfs", "/dev", n.MS_NOSUID | n.MS_STRICTATIME, "mode=755,size=65536k")
    for name in DEVICE_NODES:
        yield steps.Bind(f"/dev/{name}", f"/dev/{name}", recursive=False)
    group = ",gid=5" if tty_group_mapped else ""
    yield steps.Mount("devpts", "/dev/pts", n.MS_NOSUID | n.MS_NOEXEC, f"newinstance,ptmxmode=0666,mode=0620{group}")
    if spec.ipc == "private":
        yield steps.Mount("tmpfs", "/dev/shm", _SAFE, f"mode=1777,size={spec.shm_bytes}")
        yield steps.Mount("mqueue", "/dev/mqueue", _SAFE, optional=True)
    else:
        yield steps.Bind("/dev/shm", "/dev/shm")
        yield steps.Bind("/dev/mqueue", "/dev/mqueue", optional=True)
    for name, text in {
        "fd": "/proc/self/fd",
        "stdin": "/proc/self/fd/0",
        "stdout": "/proc/self/fd/1",
        "stderr": "/proc/self/fd/2",
        "core": "/proc/kcore",
        "ptmx": "pts/ptmx",
    }.items():
        yield steps.Symlink(f"/dev/{name}", text)
    writable = 0 if spec.privileged else n.MS_RDONLY
    if spec.network != "host":  # sysfs shows a network namespace, so it must be our user namespace's
        yield steps.Mount("sysfs", "/sys", _SAFE | writable)
        yield steps.Mount("cgroup2", "/sys/fs/cgroup", _SAFE | writable, optional=True)
    else:
        yield steps.Bind("/sys", "/sys", flags=writable)


def _volumes(spec: ContainerSpec) -> Iterator[steps.Step]:
    # parents before children, whatever order they were given in
    for mount in sorted(spec.mounts, key=lambda mount: mount.target.rstrip("/").count("/")):
        yield _volume(mount)


def _populated(spec: ContainerSpec) -> Iterator[steps.Step]:
    return (steps.Populate(mount.source, mount.target) for mount in spec.mounts if mount.populate)


def _volume(mount: MountSpec) -> steps.Step:
    flags, propagation, data = mount_words(mount.options)
    if mount.kind == "tmpfs":
        return steps.Mount("tmpfs", mount.target, flags | n.MS_NOSUID | n.MS_NODEV, data)
    recursive = "bind" not in mount.options
    return steps.Bind(mount.source, mount.target, recursive, flags, propagation)


def _protection(spec: ContainerSpec) -> Iterator[steps.Step]:
    if not spec.privileged:
        yield from (steps.ReadOnly(path) for path in spec.readonly_paths)
        yield from (steps.Mask(path) for path in spec.masked_paths)
