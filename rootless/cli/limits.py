"""Flags about resources -> the API's Resources, a part of HostConfig. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rootless.cli.types import size
from rootless.model.errors import InvalidParameter


def resources(options: Mapping[str, Any]) -> dict[str, Any]:
    """Raises InvalidParameter."""
    return {
        "Memory": options["memory"],
        "MemoryReservation": options["memory_reservation"],
        "MemorySwap": options["memory_swap"],
        "MemorySwappiness": options["memory_swappiness"] if options["memory_swappiness"] != -1 else None,
        "NanoCpus": options["cpus"],
        "CpuShares": options["cpu_shares"],
        "CpuPeriod": options["cpu_period"],
        "CpuQuota": options["cpu_quota"],
        "CpuRealtimePeriod": options["cpu_rt_period"],
        "CpuRealtimeRuntime": options["cpu_rt_runtime"],
        "CpusetCpus": options["cpuset_cpus"],
        "CpusetMems": options["cpuset_mems"],
        "CgroupParent": options["cgroup_parent"],
        "PidsLimit": options["pids_limit"] or None,
        "OomKillDisable": options["oom_kill_disable"],
        "BlkioWeight": options["blkio_weight"],
        "BlkioWeightDevice": [_rate(text, "Weight", False) for text in options["blkio_weight_device"]],
        "BlkioDeviceReadBps": [_rate(text, "Rate", True) for text in options["device_read_bps"]],
        "BlkioDeviceWriteBps": [_rate(text, "Rate", True) for text in options["device_write_bps"]],
        "BlkioDeviceReadIOps": [_rate(text, "Rate", False) for text in options["device_read_iops"]],
        "BlkioDeviceWriteIOps": [_rate(text, "Rate", False) for text in options["device_write_iops"]],
        "Devices": [_device(text) for text in options["device"]],
        "DeviceCgroupRules": list(options["device_cgroup_rule"]) or None,
        "DeviceRequests": [_gpus(options["gpus"])] if options["gpus"] else None,
        "Ulimits": ulimits(options["ulimit"]) or None,
    }


def ulimits(specifications: Sequence[str]) -> list[dict[str, Any]]:
    """("nofile=1024:2048",) -> [{"Name": "nofile", "Soft": 1024, "Hard": 2048}]. Raises InvalidParameter."""
    found: dict[str, dict[str, Any]] = {}
    for text in specifications:
        name, equals, values = text.partition("=")
        soft, colon, hard = values.partition(":")
        try:
            limits = int(soft), int(hard) if colon else int(soft)
        except ValueError:
            raise InvalidParameter(f'invalid argument "{text}" for "--ulimit" flag: invalid ulimit argument') from None
        if not equals or (limits[1] != -1 and (limits[0] > limits[1] or limits[0] == -1)):
            raise InvalidParameter(
                f'invalid argument "{text}" for "--ulimit" flag: ulimit soft limit must be less than or equal to hard '
                f"limit: {limits[0]} > {limits[1]}"
            )
        found[name] = {"Name": name, "Soft": limits[0], "Hard": limits[1]}
    return list(found.values())


def _rate(text: str, field: str, bytes_a_second: bool) -> dict[str, Any]:
    path, colon, value = text.rpartition(":")
    try:
        rate = size(value) if bytes_a_second else int(value)
        if not colon or not path.startswith("/dev/") or rate < 0:
            raise ValueError
    except ValueError:
        raise InvalidParameter(f"bad format: {text}; should be <device-path>:<number>") from None
    return {"Path": path, field: rate}


def _device(text: str) -> dict[str, str]:
    """("/dev/fuse:/dev/x:rw"); the permissions may stand without the path inside. Raises InvalidParameter."""
    parts = text.split(":")
    if len(parts) == 2 and set(parts[1]) <= set("rwm") and parts[1]:
        parts = [parts[0], parts[0], parts[1]]
    if not 0 < len(parts) <= 3 or not parts[0]:
        raise InvalidParameter(f"invalid device specification: {text}")
    inside = parts[1] if len(parts) > 1 and parts[1] else parts[0]
    permissions = parts[2] if len(parts) > 2 else "rwm"
    if set(permissions) - set("rwm"):
        raise InvalidParameter(f"invalid device specification: {text}")
    return {"PathOnHost": parts[0], "PathInContainer": inside, "CgroupPermissions": permissions}


def _gpus(text: str) -> dict[str, Any]:
    request: dict[str, Any] = {"Driver": "", "Count": 0, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals:
            name, value = "count", name
        if name == "count":
            if value != "all" and not value.isdecimal():
                raise InvalidParameter(f'invalid argument "{text}" for "--gpus" flag: invalid count: {value}')
            request["Count"] = -1 if value == "all" else int(value)
        elif name == "device":
            request["DeviceIDs"] = [value]
        elif name == "driver":
            request["Driver"] = value
        else:
            raise InvalidParameter(f'invalid argument "{text}" for "--gpus" flag: unexpected key {name!r}')
    return request
