"""Binds, Mounts, Tmpfs and Volumes of a create request -> one list of mount points, as inspect shows them. Pure.

A mount point: {"Type": bind|volume|tmpfs, "Source", "Destination", "Mode", "RW", "Propagation", "Name"?, "Driver"?,
"Options"?}; the spec of the runtime is made from it at every start."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from typing import Any

from rootless.model.errors import InvalidParameter

VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_MODES = {
    *("ro", "rw", "z", "Z", "nocopy", "rprivate", "private", "rshared", "shared", "rslave", "slave"),
    *("cached", "delegated", "consistent", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "U"),
}
_PROPAGATIONS = {"rprivate", "private", "rshared", "shared", "rslave", "slave"}


def mounts_of(
    host_config: Mapping[str, Any],
    anonymous: list[str],
    volume_path: Callable[[str], str],
    new_volume: Callable[[], str],
) -> list[dict[str, Any]]:
    """All mount points. `volume_path` gives a named volume's directory, `new_volume` a fresh volume's name.
    Raises InvalidParameter in docker's words."""
    found: dict[str, dict[str, Any]] = {}

    def add(mount: dict[str, Any]) -> None:
        if mount["Destination"] in found:
            raise InvalidParameter(f"Duplicate mount point: {mount['Destination']}")
        found[mount["Destination"]] = mount

    def volume(name: str, target: str, mode: str, writable: bool) -> dict[str, Any]:
        if not VOLUME_NAME.fullmatch(name):
            raise InvalidParameter(
                f'create {name}: "{name}" includes invalid characters for a local volume name, only '
                '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
            )
        path = volume_path(name)
        return {
            **_mount("volume", path, target, mode, writable),
            "Name": name,
            "Driver": "local",
        }

    for text in host_config.get("Binds") or []:
        source, target, mode = split_bind(str(text))
        words = set(mode.split(",")) - {""}
        if source.startswith("/"):
            add(_mount("bind", posixpath.normpath(source), target, mode, "ro" not in words))
        else:
            add(volume(source or new_volume(), target, mode or "z", "ro" not in words))
    for mount in host_config.get("Mounts") or []:
        add(_from_mount(mount, volume, new_volume))
    for target, options in (host_config.get("Tmpfs") or {}).items():
        add({**_mount("tmpfs", "", _target(str(target)), str(options), "ro" not in str(options).split(","))})
    for target in anonymous:
        if target not in found:
            add(volume(new_volume(), target, "", True))
    return list(found.values())


def anonymous_targets(config: Mapping[str, Any], host_config: Mapping[str, Any]) -> list[str]:
    """Targets of VOLUME instructions and of -v /path, which get volumes without a name."""
    return [_target(str(target)) for target in config.get("Volumes") or {}]


def split_bind(text: str) -> tuple[str, str, str]:
    """(source, target, mode) of -v: `target`, `source:target`, `source:target:mode`. Raises InvalidParameter."""
    parts = text.split(":")
    if len(parts) == 1:
        source, target, mode = "", parts[0], ""
    elif len(parts) == 2:
        source, target, mode = parts[0], parts[1], ""
    elif len(parts) == 3:
        source, target, mode = parts
    else:
        raise InvalidParameter(f"invalid volume specification: '{text}'")
    if (len(parts) > 1 and not source) or "\0" in text:
        raise InvalidParameter(f"invalid volume specification: '{text}'")
    for word in mode.split(",") if mode else []:
        if word not in _MODES:
            raise InvalidParameter(f"invalid mode: {mode}")
    return source, _target(target, text), mode


def runtime_options(mount: Mapping[str, Any]) -> tuple[str, ...]:
    """mount(8)'s words for a mount point."""
    if mount["Type"] == "tmpfs":
        return tuple(word for word in str(mount.get("Mode", "")).split(",") if word) or ("mode=1777",)
    words = [word for word in str(mount.get("Mode", "")).split(",") if word]
    kept = [word for word in words if word in ("noexec", "nosuid", "nodev", "bind")]
    kept.append("rw" if mount["RW"] else "ro")
    if mount.get("Propagation"):
        kept.append(str(mount["Propagation"]))
    return tuple(kept)


def populates(mount: Mapping[str, Any]) -> bool:
    """Whether a mount point that is empty takes over what the image has there."""
    return mount["Type"] == "volume" and "nocopy" not in str(mount.get("Mode", "")).split(",")


def _mount(kind: str, source: str, target: str, mode: str, writable: bool) -> dict[str, Any]:
    propagation = next((word for word in mode.split(",") if word in _PROPAGATIONS), "rprivate")
    return {
        "Type": kind,
        "Source": source,
        "Destination": target,
        "Mode": mode,
        "RW": writable,
        "Propagation": propagation if kind == "bind" else "",
    }


def _from_mount(
    mount: Mapping[str, Any], volume: Callable[[str, str, str, bool], dict[str, Any]], new_volume: Callable[[], str]
) -> dict[str, Any]:
    kind, source = str(mount.get("Type") or ""), str(mount.get("Source") or "")
    if not mount.get("Target"):
        raise InvalidParameter(f'invalid mount config for type "{kind}": field Target must not be empty')
    target, writable = _target(str(mount["Target"])), not mount.get("ReadOnly")
    if kind == "bind":
        if not source:
            raise InvalidParameter('invalid mount config for type "bind": field Source must not be empty')
        if not source.startswith("/"):
            raise InvalidParameter(
                f"invalid mount config for type \"bind\": invalid mount path: '{source}' mount path must be absolute"
            )
        options = mount.get("BindOptions") or {}
        words = [str(options.get("Propagation") or "")] + (["bind"] if options.get("NonRecursive") else [])
        made = _mount("bind", posixpath.normpath(source), target, ",".join(filter(None, words)), writable)
        return {**made, "MustExist": not options.get("CreateMountpoint")}
    if kind == "volume":
        nocopy = (mount.get("VolumeOptions") or {}).get("NoCopy")
        return volume(source or new_volume(), target, "z,nocopy" if nocopy else "z", writable)
    if kind == "tmpfs":
        options = mount.get("TmpfsOptions") or {}
        words = [] if writable else ["ro"]
        if options.get("SizeBytes"):
            words.append(f"size={int(options['SizeBytes'])}")
        words.append(f"mode={int(options.get('Mode') or 0o1777):o}")
        return _mount("tmpfs", "", target, ",".join(words), writable)
    raise InvalidParameter(f'mount type unknown: "{kind}"')


def _target(target: str, text: str = "") -> str:
    if not target.startswith("/"):
        raise InvalidParameter(
            f"invalid volume specification: '{text or target}': invalid mount config for type "
            f"\"bind\": invalid mount path: '{target}' mount path must be absolute"
        )
    normal = posixpath.normpath(target)
    if normal == "/":
        raise InvalidParameter(f"invalid volume specification: '{text or target}': destination can't be '/'")
    return normal
