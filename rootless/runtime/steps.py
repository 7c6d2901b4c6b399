"""The steps that make a container, as values: `plan` lists them, `perform` does them, a person can print them.

Targets are paths inside the container and are resolved there (openat2, RESOLVE_IN_ROOT): an image may hold any link."""

from __future__ import annotations

from dataclasses import dataclass

from rootless.runtime.spec import GuestNetwork


@dataclass(frozen=True)
class Loopback:
    """Bring `lo` of the new network namespace up, and let everybody inside have low ports and send pings, as docker
    does: the namespace is the container's alone."""


@dataclass(frozen=True)
class Tap:
    """Make the network device, configure it, hand its descriptor to the launcher."""

    network: GuestNetwork


@dataclass(frozen=True)
class RootOverlay:
    """Mount overlayfs at the launcher's root mount point and make it the place later targets are resolved in."""

    lower: str
    upper: str
    work: str


@dataclass(frozen=True)
class RootUnion:
    """As RootOverlay, where the whole union is served at `source`: it is bound."""

    source: str


@dataclass(frozen=True)
class Mount:
    """A new file system at `target`, made there if missing. `optional`: a kernel that refuses it is tolerated."""

    fstype: str
    target: str
    flags: int
    data: str = ""
    source: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Bind:
    """A file or directory of the outer world at `target`, made there (as the source's kind) if missing.
    `flags` are added by a second, remounting call, together with the flags the kernel has locked."""

    source: str
    target: str
    recursive: bool = True
    flags: int = 0
    propagation: int = 0
    optional: bool = False


@dataclass(frozen=True)
class Populate:
    """Copy what the image has at `target` into the volume `source`, if that is empty."""

    source: str
    target: str


@dataclass(frozen=True)
class Symlink:
    target: str
    text: str


@dataclass(frozen=True)
class Mask:
    """Make a path unreadable: /dev/null over a file, an empty read-only tmpfs over a directory. Missing: nothing."""

    target: str


@dataclass(frozen=True)
class ReadOnly:
    """Bind a path over itself, read-only. Missing: nothing."""

    target: str


@dataclass(frozen=True)
class ReadOnlyRoot:
    """The root itself read-only; what is mounted below keeps its own flags."""


@dataclass(frozen=True)
class Pivot:
    """Make the new root the root and let go of the old one."""


@dataclass(frozen=True)
class Names:
    hostname: str
    domainname: str


@dataclass(frozen=True)
class Sysctl:
    name: str
    value: str


Step = (
    Loopback
    | Tap
    | RootOverlay
    | RootUnion
    | Mount
    | Populate
    | Bind
    | Symlink
    | Mask
    | ReadOnly
    | ReadOnlyRoot
    | Pivot
    | Names
    | Sysctl
)


def describe(step: Step) -> str:
    """A few words for an error message: "mount /proc"."""
    target = getattr(step, "target", "")
    word = {
        "RootOverlay": "mount the root",
        "RootUnion": "mount the root",
        "Pivot": "pivot_root",
        "Names": "set the host name",
        "Bind": "bind",
        "Populate": "fill the volume at",
    }
    if isinstance(step, Tap):
        return f"network device {step.network.interface}"
    return f"{word.get(type(step).__name__, type(step).__name__.lower())} {target}".strip()
