"""The types of what a request about a container, a network or an exec holds, as docker's API has them (moby's
api/types). Pure. Whether the values make sense is asked elsewhere; their types are then taken for granted.

A kind is `str`, `int` or `bool`; [kind], a list of it; EachOf(kind), an object with any names; or an object of fields,
{name: kind}. What is not named here is not read. null stands for "not given" everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rootless.model.errors import InvalidParameter

Kind = Any  # recursive: see above


@dataclass(frozen=True)
class EachOf:
    kind: Kind


@dataclass(frozen=True)
class Words:
    """A list of strings, or one string in its place (moby's strslice)."""


def _all(kind: Kind, names: str) -> dict[str, Kind]:
    return dict.fromkeys(names.split(), kind)


ENDPOINT: Kind = {
    "IPAMConfig": {"IPv4Address": str, "IPv6Address": str, "LinkLocalIPs": [str]},
    "DriverOpts": EachOf(str),
    "GwPriority": int,
    "MacAddress": str,
    **_all([str], "Links Aliases"),
}
_MOUNT: Kind = {
    **_all(str, "Type Source Target"),
    "ReadOnly": bool,
    "BindOptions": {"Propagation": str, "NonRecursive": bool, "CreateMountpoint": bool},
    "VolumeOptions": {"NoCopy": bool},
    "TmpfsOptions": {"SizeBytes": int, "Mode": int},
}
_HOST_CONFIG: Kind = {
    **_all(str, "ContainerIDFile NetworkMode VolumeDriver CgroupnsMode IpcMode Cgroup PidMode UTSMode UsernsMode"),
    **_all(str, "Runtime Isolation CpusetCpus"),
    **_all(int, "Memory MemorySwap MemoryReservation NanoCpus CpuShares CpuQuota CpuPeriod PidsLimit BlkioWeight"),
    **_all(int, "OomScoreAdj ShmSize"),
    **_all(bool, "AutoRemove Privileged PublishAllPorts ReadonlyRootfs Init"),
    **_all([str], "Binds VolumesFrom Dns DnsOptions DnsSearch ExtraHosts GroupAdd Links SecurityOpt"),
    **_all([str], "MaskedPaths ReadonlyPaths"),
    **_all(Words(), "CapAdd CapDrop"),
    **_all(EachOf(str), "StorageOpt Tmpfs Sysctls"),
    "ConsoleSize": [int],
    "LogConfig": {"Type": str, "Config": EachOf(str)},
    "Mounts": [_MOUNT],
    "PortBindings": EachOf([{"HostIp": str, "HostPort": str}]),
    "RestartPolicy": {"Name": str, "MaximumRetryCount": int},
    "Ulimits": [{"Name": str, "Soft": int, "Hard": int}],
    "Devices": [{}],
}
CONTAINER: Kind = {
    **_all(str, "Hostname Domainname User Image WorkingDir MacAddress StopSignal"),
    **_all(bool, "AttachStdin AttachStdout AttachStderr Tty OpenStdin StdinOnce NetworkDisabled"),
    **_all(Words(), "Cmd Entrypoint Shell"),
    **_all(EachOf({}), "ExposedPorts Volumes"),
    "Env": [str],
    "Labels": EachOf(str),
    "StopTimeout": int,
    "Healthcheck": {"Test": [str], **_all(int, "Interval Timeout Retries StartPeriod StartInterval")},
    "HostConfig": _HOST_CONFIG,
    "NetworkingConfig": {"EndpointsConfig": EachOf(ENDPOINT)},
}
NETWORK: Kind = {
    **_all(str, "Name Driver Scope"),
    **_all(bool, "Attachable Internal EnableIPv4 EnableIPv6 Ingress ConfigOnly"),
    **_all(EachOf(str), "Options Labels"),
    "IPAM": {
        "Driver": str,
        "Options": EachOf(str),
        "Config": [{**_all(str, "Subnet Gateway IPRange"), **_all(EachOf(str), "AuxiliaryAddresses AuxAddress")}],
    },
}
CONNECT: Kind = {"Container": str, "EndpointConfig": ENDPOINT}
DISCONNECT: Kind = {"Container": str, "Force": bool}
EXEC: Kind = {
    **_all(str, "WorkingDir User DetachKeys"),
    **_all(bool, "AttachStdin AttachStdout AttachStderr Tty Privileged"),
    **_all([str], "Cmd Env"),
    "ConsoleSize": [int],
}
EXEC_START: Kind = {"Detach": bool, "Tty": bool, "ConsoleSize": [int]}


def check_types(value: object, kind: Kind, name: str = "") -> None:
    """Raises InvalidParameter with the field's whole name: HostConfig.PortBindings.80/tcp must be a list."""
    if value is None:
        return
    if isinstance(kind, Words):
        kind = str if isinstance(value, str) else [str]
    if not _is(value, kind):
        raise InvalidParameter(f"{name or 'the request'} must be {_words(kind)}")
    if isinstance(value, str):
        _check_text(value, name)
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check_part(item, kind[0], f"{name}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            field = f"{name}.{key}".lstrip(".")
            if isinstance(kind, EachOf):
                check_types(key, str, name)
                _check_part(item, kind.kind, field)
            elif key in kind:
                check_types(item, kind[key], field)


def _check_part(value: object, kind: Kind, name: str) -> None:
    """One of many, where null stands for no string, number or truth."""
    if value is None and isinstance(kind, type):
        raise InvalidParameter(f"{name} must be {_words(kind)}")
    check_types(value, kind, name)


def _check_text(text: str, name: str) -> None:
    """What can be written down, and be a path or an argument."""
    if "\0" in text:
        raise InvalidParameter(f"{name} holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:  # "\\ud800" is JSON, and half a character
        raise InvalidParameter(f"{name} is not Unicode text") from None


def _is(value: object, kind: Kind) -> bool:
    if isinstance(kind, type):  # bool is no int, and an int has 64 bits
        return type(value) is kind and (not isinstance(value, int) or -(1 << 63) <= value < 1 << 63)
    return isinstance(value, list if isinstance(kind, list) else dict)


def _words(kind: Kind) -> str:
    if isinstance(kind, type):
        return {str: "a string", int: "a whole number", bool: "true or false"}[kind]
    return "a list" if isinstance(kind, list) else "an object"
