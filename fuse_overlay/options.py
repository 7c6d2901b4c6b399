"""The `-o` words of `rootless-fuse-overlay`: those of fuse-overlayfs and of mount(8), as a value. Pure.

A word that is not known, or means something that we do not do, is refused by its name: a mount that silently does less
than it was asked for is worse than none."""

from __future__ import annotations

import re
from dataclasses import dataclass

OVERFLOW = 1 << 32
_UNION = re.compile(r"(?<!\\):")
_WORDS = re.compile(r"(?<!\\),")
# words of fuse-overlayfs, libfuse and mount(8) that ask for what is so anyway, or for what cannot be told apart here
_MEANT_ALREADY = {
    "rw", "dev", "suid", "exec", "atime", "relatime", "diratime", "async", "auto", "noauto", "user", "nouser", "users",
    "defaults", "_netdev", "nofail", "userxattr", "default_permissions", "big_writes", "allow_other", "clone_fd",
    "fast_ino", "max_idle_threads", "max_threads", "threaded", "timeout", "debug", "nonempty", "index",
    "nfs_export", "xino", "redirect_dir", "metacopy", "subtype", "fstype", "x-systemd.requires", "comment",
}  # fmt: skip
_FLAGS = {"nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 1024, "nodiratime": 2048}  # MS_…, include/uapi/linux/mount.h
_REFUSED = {
    "plugins": "data sources other than directories and layers are not supported",
    "noxattrs": "extended attributes cannot be switched off",
    "allow_root": "there is allow_other only",
    "auto_unmount": "nothing of a mount is left when its server ends: unmount it to end it",
}


@dataclass(frozen=True)
class MountOptions:
    """`lower`: highest first. `flags`: MS_… of mount(2). `squash`: (uid, gid) that everything belongs to; -1 as it is.
    Ours alone: `tree`, the index of the layers, made before; `live`, directories may change meanwhile; `userns`, the
    user namespace of whose ids the directories are."""

    lower: tuple[str, ...]
    upper: str = ""
    work: str = ""
    read_only: bool = False
    flags: int = 0
    volatile: bool = False
    acl: bool = True
    writeback: bool = True
    static_nlink: bool = False
    squash: tuple[int, int] = (-1, -1)
    tree: str = ""
    live: bool = False
    userns: str = ""
    fsname: str = "rootless-fuse-overlay"
    others: bool = False


def parse(text: str) -> MountOptions:
    """Raises ValueError naming the word."""
    values: dict[str, str] = {}
    flags = 0
    for word in filter(None, _WORDS.split(text)):
        name, _, value = word.partition("=")
        if name in _REFUSED:
            raise ValueError(f"option {name!r} is not supported: {_REFUSED[name]}")
        if name in ("uidmapping", "gidmapping"):
            _check_mapping(name, value)
        elif name in _FLAGS:
            flags |= _FLAGS[name]
        elif name in _KNOWN:
            values[name] = value
        elif name not in _MEANT_ALREADY:
            raise ValueError(f"option {name!r} is not known")
        if name == "allow_other":
            values[name] = ""
    lower = tuple(_plain(path) for path in _UNION.split(values.get("lowerdir", "")) if path)
    upper, work = _plain(values.get("upperdir", "")), _plain(values.get("workdir", ""))
    if not lower:
        raise ValueError("no lower directory: give lowerdir=DIRECTORY[:DIRECTORY…]")
    if plugin := next((path for path in lower if path.startswith("//")), ""):
        raise ValueError(f"lowerdir={plugin}: {_REFUSED['plugins']}")
    if bool(upper) != bool(work):
        raise ValueError("upperdir= and workdir= belong together: one of them is missing")
    if values.get("xattr_permissions", "0") not in ("", "0"):
        raise ValueError("option 'xattr_permissions' is not supported: owners that the host does not allow are kept so")
    root = 0 if "squash_to_root" in values else -1
    return MountOptions(
        lower,
        upper,
        work,
        read_only="ro" in values or not upper,
        flags=flags,
        volatile="volatile" in values or values.get("fsync") == "0",
        acl="noacl" not in values,
        writeback=values.get("writeback") != "0",
        static_nlink="static_nlink" in values,
        squash=(_number(values, "squash_to_uid", root), _number(values, "squash_to_gid", root)),
        tree=_plain(values.get("tree", "")),
        live="live" in values,
        userns=_plain(values.get("userns", "")),
        fsname=values.get("fsname", MountOptions.fsname),
        others="allow_other" in values,
    )


_KNOWN = {
    "lowerdir", "upperdir", "workdir", "ro", "volatile", "fsync", "noacl", "static_nlink", "squash_to_root",
    "squash_to_uid", "squash_to_gid", "tree", "live", "userns", "fsname", "xattr_permissions", "context", "writeback",
}  # fmt: skip


def _plain(path: str) -> str:
    return re.sub(r"\\(.)", r"\1", path)


def _number(values: dict[str, str], name: str, otherwise: int) -> int:
    value = values.get(name)
    if value is None:
        return otherwise
    if not value.isdecimal() or int(value) >= OVERFLOW:
        raise ValueError(f"{name}={value}: not an id")
    return int(value)


def _check_mapping(name: str, text: str) -> None:
    """Triples ID:ID-ON-DISK:COUNT; only the mapping that changes nothing."""
    numbers = text.split(":")
    if len(numbers) % 3 or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"{name}={text}: not a list of ID:ID-ON-DISK:COUNT")
    if any(numbers[at] != numbers[at + 1] for at in range(0, len(numbers), 3)):
        raise ValueError(
            f"option {name!r} is not supported: files are shown with the ids of this user namespace, or squashed"
        )
