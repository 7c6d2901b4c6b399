"""The seam: what the runtime may ask of the kernel, and a recording implementation of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


class Syscalls(Protocol):
    """Every method raises OSError with errno and the first path concerned."""

    def mount(self, source: str, target: str, fstype: str, flags: int, data: str = "") -> None: ...

    def umount(self, target: str, flags: int) -> None: ...

    def pivot_root(self, new_root: str, put_old: str) -> None: ...

    def unshare(self, flags: int) -> None: ...

    def setns(self, fd: int, flags: int) -> None: ...

    def prctl(self, option: int, argument: int = 0, argument3: int = 0) -> None: ...

    def sethostname(self, name: str) -> None: ...

    def setdomainname(self, name: str) -> None: ...

    def capset(self, effective: int, permitted: int, inheritable: int) -> None:
        """Bit masks of capability numbers, of the calling thread."""

    def openat2(self, directory_fd: int, path: str, flags: int, mode: int, resolve: int) -> int: ...

    def syncfs(self, path: str) -> None:
        """Everything written to the file system of a directory, out of the caches of the kernel above it."""
        ...

    def close_range(self, first: int, last: int) -> None: ...


@dataclass
class Recorder:
    """A Syscalls that does nothing and remembers everything. `failures` maps a call's name to the errno it raises."""

    calls: list[tuple[object, ...]] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)

    def _note(self, name: str, *arguments: object) -> None:
        self.calls.append((name, *arguments))
        if number := self.failures.get(name):
            raise OSError(number, name)

    def mount(self, source: str, target: str, fstype: str, flags: int, data: str = "") -> None:
        self._note("mount", source, target, fstype, flags, data)

    def umount(self, target: str, flags: int) -> None:
        self._note("umount", target, flags)

    def pivot_root(self, new_root: str, put_old: str) -> None:
        self._note("pivot_root", new_root, put_old)

    def unshare(self, flags: int) -> None:
        self._note("unshare", flags)

    def setns(self, fd: int, flags: int) -> None:
        self._note("setns", fd, flags)

    def prctl(self, option: int, argument: int = 0, argument3: int = 0) -> None:
        self._note("prctl", option, argument, argument3)

    def sethostname(self, name: str) -> None:
        self._note("sethostname", name)

    def setdomainname(self, name: str) -> None:
        self._note("setdomainname", name)

    def capset(self, effective: int, permitted: int, inheritable: int) -> None:
        self._note("capset", effective, permitted, inheritable)

    def openat2(self, directory_fd: int, path: str, flags: int, mode: int, resolve: int) -> int:
        self._note("openat2", directory_fd, path, flags, mode, resolve)
        return -1

    def syncfs(self, path: str) -> None:
        self._note("syncfs", path)

    def close_range(self, first: int, last: int) -> None:
        self._note("close_range", first, last)
