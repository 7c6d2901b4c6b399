"""Performs the steps of a plan, in the container's first process. Called by `launcher.child`.

Until the pivot, container paths are resolved below the new root's descriptor with RESOLVE_IN_ROOT, so that no link in
an image leads out of it. A mount goes to /proc/self/fd/N of what was resolved, never to a path looked up again."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence

from rootless.runtime import steps
from rootless.runtime.populate import populate
from rootless.runtime.spec import GuestNetwork
from rootless.syscalls import Syscalls
from rootless.syscalls import numbers as n

# Flags a user namespace may not take away from a mount it was given: they must be repeated in every remount.
_LOCKED = {
    os.ST_RDONLY: n.MS_RDONLY,
    os.ST_NOSUID: n.MS_NOSUID,
    os.ST_NODEV: n.MS_NODEV,
    os.ST_NOEXEC: n.MS_NOEXEC,
    os.ST_NOATIME: n.MS_NOATIME,
    os.ST_NODIRATIME: n.MS_NODIRATIME,
    os.ST_RELATIME: n.MS_RELATIME,
}


class StepFailed(Exception):
    """A step could not be done: `step` in words, `errno`, and a message for the user."""

    def __init__(self, step: str, number: int, message: str) -> None:
        super().__init__(f"{step}: {message}")
        self.step = step
        self.errno = number
        self.message = message


MAX_LINKS = 10


class Performer:
    """Performs steps one after the other.

    `root_mount` is an empty directory of the launcher's, the mount point of the container's root until the pivot.
    `send_tap(network)` makes a TAP in the current network namespace and sends it to the launcher; it raises OSError.
    `warn(text)` tells the user of something that was done without."""

    def __init__(
        self,
        syscalls: Syscalls,
        root_mount: str,
        send_tap: Callable[[GuestNetwork], None],
        loopback_up: Callable[[], None],
        warn: Callable[[str], None],
    ) -> None:
        self._syscalls = syscalls
        self._root_mount = root_mount
        self._send_tap = send_tap
        self._loopback_up = loopback_up
        self._warn = warn
        self._root_fd = -1

    def perform(self, plan: Sequence[steps.Step]) -> None:
        """Raises StepFailed naming the first step that could not be done."""
        for step in plan:
            try:
                self._perform(step)
            except OSError as error:
                where = f" ({error.filename})" if error.filename else ""
                message = f"{error.strerror or error}{where}"
                raise StepFailed(steps.describe(step), error.errno or 0, message) from error

    @property
    def root_fd(self) -> int:
        """The new root, before the pivot."""
        return self._root_fd

    def _perform(self, step: steps.Step) -> None:
        match step:
            case steps.Loopback():
                self._loopback_up()
            case steps.Tap():
                self._tap(step)
            case steps.RootOverlay():
                self._root_overlay(step)
            case steps.RootUnion():
                self._syscalls.mount(step.source, self._root_mount, "", n.MS_BIND)
                self._open_root()
            case steps.Mount():
                self._mount(step)
            case steps.Populate():
                self._populate(step)
            case steps.Bind():
                self._bind(step)
            case steps.Symlink():
                parent = self._make(os.path.dirname(step.target), directory=True)
                try:
                    os.symlink(step.text, os.path.basename(step.target), dir_fd=parent)
                finally:
                    os.close(parent)
            case steps.Mask():
                self._mask(step.target)
            case steps.ReadOnly():
                self._read_only(step.target)
            case steps.ReadOnlyRoot():
                self._remount(self._root_fd, n.MS_RDONLY)
            case steps.Pivot():
                self._pivot()
            case steps.Names():
                self._syscalls.sethostname(step.hostname)
                self._syscalls.setdomainname(step.domainname)
            case steps.Sysctl():
                self._sysctl(step)

    # ------------------------------------------------------------------------------------------------ network
    def _tap(self, step: steps.Tap) -> None:
        try:
            self._send_tap(step.network)
        except OSError as error:
            if error.filename != "/dev/net/tun":
                raise
            self._warn(
                f"no network but loopback: /dev/net/tun cannot be opened ({error.strerror}); ask the administrator to "
                "chmod 666 it, or use --network host or none"
            )

    # ------------------------------------------------------------------------------------------------ mounts
    def _root_overlay(self, step: steps.RootOverlay) -> None:
        data = f"lowerdir={_escape(step.lower)},upperdir={_escape(step.upper)},workdir={_escape(step.work)},userxattr"
        self._syscalls.mount("overlay", self._root_mount, "overlay", 0, data)
        self._open_root()

    def _open_root(self) -> None:
        self._root_fd = os.open(self._root_mount, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def _mount(self, step: steps.Mount) -> None:
        try:
            fd = self._make(step.target, directory=True)
        except OSError as error:
            if step.optional and error.errno in (errno.ENOENT, errno.EROFS, errno.EPERM, errno.EACCES):
                return  # /sys/fs/cgroup on a kernel without it
            raise
        try:
            self._syscalls.mount(step.source or step.fstype, f"/proc/self/fd/{fd}", step.fstype, step.flags, step.data)
        except OSError as error:
            if not step.optional:
                raise OSError(error.errno, error.strerror, step.target) from error
        finally:
            os.close(fd)

    def _bind(self, step: steps.Bind) -> None:
        try:
            source = os.open(step.source, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            if step.optional:
                return
            raise
        try:
            fd = self._make(step.target, directory=stat.S_ISDIR(os.fstat(source).st_mode))
            try:
                flags = n.MS_BIND | (n.MS_REC if step.recursive else 0)
                self._syscalls.mount(f"/proc/self/fd/{source}", f"/proc/self/fd/{fd}", "", flags)
            except OSError as error:
                raise OSError(error.errno, error.strerror, f"{step.source} on {step.target}") from error
            finally:
                os.close(fd)
        finally:
            os.close(source)
        if step.flags or step.propagation:
            fd = self._resolve(step.target)
            try:
                if step.flags:
                    self._remount(fd, step.flags)
                if step.propagation:
                    self._syscalls.mount("", f"/proc/self/fd/{fd}", "", step.propagation)
            finally:
                os.close(fd)

    def _remount(self, fd: int, flags: int) -> None:
        have = os.fstatvfs(fd).f_flag
        kept = sum(mount for statvfs, mount in _LOCKED.items() if have & statvfs)
        self._syscalls.mount("", f"/proc/self/fd/{fd}", "", n.MS_REMOUNT | n.MS_BIND | kept | flags)

    def _read_only(self, target: str) -> None:
        fd = self._existing(target)
        if fd is None:
            return
        try:
            self._syscalls.mount(f"/proc/self/fd/{fd}", f"/proc/self/fd/{fd}", "", n.MS_BIND | n.MS_REC)
        finally:
            os.close(fd)
        fd = self._resolve(target)
        try:
            self._remount(fd, n.MS_RDONLY)
        finally:
            os.close(fd)

    def _mask(self, target: str) -> None:
        fd = self._existing(target)
        if fd is None:
            return
        path = f"/proc/self/fd/{fd}"
        try:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                self._syscalls.mount("tmpfs", path, "tmpfs", n.MS_RDONLY | n.MS_NOSUID | n.MS_NODEV, "size=0k")
            else:
                self._syscalls.mount("/dev/null", path, "", n.MS_BIND)
        finally:
            os.close(fd)

    def _sysctl(self, step: steps.Sysctl) -> None:
        path = "/proc/sys/" + step.name.replace(".", "/")
        fd = self._syscalls.openat2(self._root_fd, path, os.O_WRONLY, 0, n.RESOLVE_IN_ROOT)
        try:
            os.write(fd, step.value.encode())
        finally:
            os.close(fd)

    def _pivot(self) -> None:
        os.fchdir(self._root_fd)
        os.close(self._root_fd)
        self._root_fd = -1
        # the old root ends up on top of the new one and is let go of there: no directory for it is needed
        self._syscalls.pivot_root(".", ".")
        self._syscalls.mount("", ".", "", n.MS_SLAVE | n.MS_REC)  # the unmount must not reach the host
        self._syscalls.umount(".", n.MNT_DETACH)
        os.chdir("/")

    # ------------------------------------------------------------------------------------------------ container paths
    def _populate(self, step: steps.Populate) -> None:
        found = self._existing(step.target)
        if found is None:
            return
        try:
            if stat.S_ISDIR(os.fstat(found).st_mode):
                directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=found)
                try:
                    populate(directory, step.source)
                finally:
                    os.close(directory)
        finally:
            os.close(found)

    def _resolve(self, path: str) -> int:
        return self._syscalls.openat2(self._root_fd, path, n.O_PATH, 0, n.RESOLVE_IN_ROOT)

    def _existing(self, path: str) -> int | None:
        try:
            return self._resolve(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                return None
            raise

    def _make(self, path: str, *, directory: bool, links: int = 0) -> int:
        """An O_PATH descriptor of a path in the container; what is missing of it is made, also where a link of the
        image says it should be (resolv.conf is one into /run on many systems)."""
        try:
            return self._resolve(path)
        except FileNotFoundError:
            pass
        parent_path, name = os.path.split(path.rstrip("/"))
        if not name:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        parent = self._make(parent_path or "/", directory=True, links=links)
        try:
            if directory:
                os.mkdir(name, 0o755, dir_fd=parent)
            else:
                create = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(name, create, 0o644, dir_fd=parent))
        except FileExistsError as error:  # a link to nowhere
            if links >= MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from error
            target = os.path.normpath(os.path.join("/", parent_path, os.readlink(name, dir_fd=parent)))
            return self._make(target, directory=directory, links=links + 1)
        finally:
            os.close(parent)
        return self._resolve(path)


def _escape(path: str) -> str:
    """overlayfs reads `:` and `,` and `\\` in its options."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
