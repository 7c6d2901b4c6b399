"""`-v`, `--mount` and `--tmpfs` -> the API's Binds, Volumes, Mounts and Tmpfs. Pure; the directory is an argument."""

from __future__ import annotations

import csv
import os.path
from typing import Any

from rootless.cli.flags import FlagError, boolean
from rootless.cli.types import size

_TYPES = ("bind", "volume", "tmpfs", "image", "npipe", "cluster")


def volumes(specifications: tuple[str, ...], directory: str) -> tuple[list[str], dict[str, dict[str, str]]]:
    """(Binds, Volumes): `source:target[:options]`, and targets alone. `./x` is made absolute; a name stays a name."""
    binds: list[str] = []
    anonymous: dict[str, dict[str, str]] = {}
    for specification in specifications:
        source, colon, rest = specification.partition(":")
        if not colon:
            anonymous[specification] = {}
        elif source in (".", "..") or source.startswith(("./", "../")):
            binds.append(f"{os.path.normpath(os.path.join(directory, source))}:{rest}")
        else:
            binds.append(specification)
    return binds, anonymous


def tmpfs(specifications: tuple[str, ...]) -> dict[str, str]:
    """("/run:size=1m",) -> {"/run": "size=1m"}."""
    return {target: options for target, _, options in (text.partition(":") for text in specifications)}


def mounts(specifications: tuple[str, ...], directory: str) -> list[dict[str, Any]]:
    """--mount's values. Raises FlagError in docker's words."""
    found = []
    for specification in specifications:
        try:
            found.append(_mount(specification, directory))
        except ValueError as error:
            raise FlagError(f'invalid argument "{specification}" for "--mount" flag: {error}') from None
    return found


def _mount(specification: str, directory: str) -> dict[str, Any]:
    fields = next(csv.reader([specification]), [])
    if not fields:
        raise ValueError("value is empty")
    mount: dict[str, Any] = {"Type": "volume"}
    for field in fields:
        name, equals, value = field.partition("=")
        _field(mount, name.strip().lower(), value if equals else None, field)
    if not mount.get("Target"):
        raise ValueError("target is required")
    kind = mount["Type"]
    if kind not in _TYPES:
        raise ValueError(f"mount type {kind!r} is not known")
    if kind == "bind" and not mount.get("Source"):
        raise ValueError("source is required when specifying mount type bind")
    for options, wanted in (("VolumeOptions", "volume"), ("BindOptions", "bind"), ("TmpfsOptions", "tmpfs")):
        if options in mount and kind != wanted:
            raise ValueError(f"cannot mix '{wanted}-*' options with mount type '{kind}'")
    source = mount.get("Source", "")
    if kind == "bind" and (source in (".", "..") or source.startswith(("./", "../"))):
        mount["Source"] = os.path.normpath(os.path.join(directory, source))
    return mount


def _field(mount: dict[str, Any], name: str, value: str | None, field: str) -> None:
    if name in ("readonly", "ro"):
        mount["ReadOnly"] = _boolean(name, value)
    elif name == "volume-nocopy":
        mount.setdefault("VolumeOptions", {})["NoCopy"] = _boolean(name, value)
    elif name == "bind-nonrecursive":
        mount.setdefault("BindOptions", {})["NonRecursive"] = _boolean(name, value)
    elif name == "bind-create-src":
        mount.setdefault("BindOptions", {})["CreateMountpoint"] = _boolean(name, value)
    elif value is None:
        raise ValueError(f"invalid field '{field}' must be a key=value pair")
    elif name == "type":
        mount["Type"] = value.lower()
    elif name in ("source", "src"):
        mount["Source"] = value
    elif name in ("target", "dst", "destination"):
        mount["Target"] = value
    elif name == "consistency":
        mount["Consistency"] = value.lower()
    elif name == "bind-propagation":
        mount.setdefault("BindOptions", {})["Propagation"] = value.lower()
    elif name == "bind-recursive":
        _recursive(mount.setdefault("BindOptions", {}), value)
    elif name == "volume-subpath":
        mount.setdefault("VolumeOptions", {})["Subpath"] = value
    elif name == "volume-label":
        label, _, text = value.partition("=")
        mount.setdefault("VolumeOptions", {}).setdefault("Labels", {})[label] = text
    elif name in ("volume-driver", "volume-opt"):
        driver = mount.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})
        if name == "volume-driver":
            driver["Name"] = value
        else:
            option, _, text = value.partition("=")
            driver.setdefault("Options", {})[option] = text
    elif name == "tmpfs-size":
        mount.setdefault("TmpfsOptions", {})["SizeBytes"] = _checked_size(value)
    elif name == "tmpfs-mode":
        try:
            mount.setdefault("TmpfsOptions", {})["Mode"] = int(value, 8)
        except ValueError:
            raise ValueError(f"invalid value for {name}: {value}") from None
    else:
        raise ValueError(f"unexpected key '{name}' in '{field}'")


def _recursive(options: dict[str, Any], value: str) -> None:
    if value == "disabled":
        options["NonRecursive"] = True
    elif value == "writable":
        options["ReadOnlyNonRecursive"] = True
    elif value == "readonly":
        options["ReadOnlyForceRecursive"] = True
    elif value != "enabled":
        raise ValueError(
            f'invalid value for bind-recursive: {value} (must be "enabled", "disabled", "writable" or "readonly")'
        )


def _boolean(name: str, value: str | None) -> bool:
    try:
        return value is None or boolean(value)
    except ValueError:
        raise ValueError(f"invalid value for {name}: {value}") from None


def _checked_size(value: str) -> int:
    try:
        return size(value)
    except ValueError:
        raise ValueError(f"invalid value for tmpfs-size: {value}") from None
