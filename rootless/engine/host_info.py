"""GET /info and /version: the machine, the engine, what is in force and where it came from, what is missing."""

from __future__ import annotations

import dataclasses
import os
import platform
import pwd
import shutil
import time
from typing import Any

from rootless import __version__
from rootless.engine.engine import Engine
from rootless.engine.network_device import device_notice, device_problem
from rootless.model import clock, platforms
from rootless.settings import Settings


def info(engine: Engine, storage: tuple[str, str]) -> dict[str, Any]:
    """The shape of GET /info, and our own under "Rootless". `storage`: the driver in force, and why."""
    containers = list(engine.containers.by_id.values())
    running = sum(container.running for container in containers)
    settings = engine.settings
    hello = engine.link.hello
    return {
        "ID": f"rootless-{os.getuid()}",
        "Containers": len(containers),
        "ContainersRunning": running,
        "ContainersPaused": 0,
        "ContainersStopped": len(containers) - running,
        "Images": len(engine.images.all()),
        "Driver": storage[0],
        "DriverStatus": [["Backing", _BACKING[storage[0]]], ["Chosen because", storage[1]]],
        "Plugins": {"Volume": ["local"], "Network": ["bridge", "host", "null"], "Authorization": None, "Log": LOGS},
        "MemoryLimit": False,
        "SwapLimit": False,
        "CpuCfsPeriod": False,
        "CpuCfsQuota": False,
        "CPUShares": False,
        "CPUSet": False,
        "PidsLimit": False,
        "IPv4Forwarding": True,
        "Debug": settings.debug,
        "NFd": len(os.listdir("/proc/self/fd")),
        "OomKillDisable": False,
        "NGoroutines": 1,
        "SystemTime": clock.rfc3339(time.time_ns()),
        "LoggingDriver": "json-file",
        "CgroupDriver": "none",
        "CgroupVersion": "2",
        "NEventsListener": 0,
        "KernelVersion": platform.release(),
        "OperatingSystem": _os_name(),
        "OSVersion": _os_release().get("VERSION_ID", ""),
        "OSType": "linux",
        "Architecture": platform.machine(),
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {
            "InsecureRegistryCIDRs": ["127.0.0.0/8"],
            "IndexConfigs": {},
            "Mirrors": list(settings.registry_mirrors),
        },
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "GenericResources": None,
        "DockerRootDir": str(settings.data_root),
        "HttpProxy": os.environ.get("HTTP_PROXY", ""),
        "HttpsProxy": os.environ.get("HTTPS_PROXY", ""),
        "NoProxy": os.environ.get("NO_PROXY", ""),
        "Name": platform.node(),
        "Labels": [],
        "ExperimentalBuild": False,
        "ServerVersion": __version__,
        "Runtimes": {"rootless": {"path": "rootless"}},
        "DefaultRuntime": "rootless",
        "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": False, "Error": ""},
        "LiveRestoreEnabled": True,
        "Isolation": "",
        "InitBinary": "rootless",
        "SecurityOptions": ["name=rootless"],
        "Warnings": _warnings(engine),
        "Rootless": {
            "Settings": setting_rows(settings),
            "IdMap": {"Uids": hello.get("uid_map"), "Gids": hello.get("gid_map"), "Single": hello.get("single_id")},
            "Helpers": {name: shutil.which(name) or "" for name in ("newuidmap", "newgidmap", "fusermount3")},
        },
    }


LOGS = ["json-file"]
_BACKING = {
    "fuse+overlay": "layers as tar and index, FUSE, kernel overlayfs",
    "fuse": "layers as tar and index, a writable FUSE union",
}


def setting_rows(settings: Settings) -> list[dict[str, str]]:
    """Each setting with what is in force and where it came from."""
    rows = []
    for field in dataclasses.fields(settings):
        if field.name == "origins":
            continue
        value = getattr(settings, field.name)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        rows.append({"Name": field.name, "Value": text, "Origin": settings.origins.get(field.name, "default")})
    return rows


def _warnings(engine: Engine) -> list[str]:
    found = ["limits of memory, CPU and processes are not enforced yet"]
    if reason := engine.link.hello.get("single_id_reason"):
        from rootless.launcher.idmap import remedy  # only where it is needed: info is not on the way of a start

        found.append(f"only one user id: {reason}; ask the administrator for: {remedy(reason, _user_name())}")
    if problem := device_problem() or device_notice():
        found.append(problem)
    return found


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def version() -> dict[str, Any]:
    """The shape of GET /version."""
    from rootless.api.router import MIN_VERSION, VERSION

    details = {
        "ApiVersion": VERSION,
        "MinAPIVersion": MIN_VERSION,
        "Os": "linux",
        "Arch": platforms.here().architecture,
        "KernelVersion": platform.release(),
        "Python": platform.python_version(),
    }
    return {
        "Platform": {"Name": "rootless"},
        "Components": [{"Name": "Engine", "Version": __version__, "Details": details}],
        "Version": __version__,
        "ApiVersion": VERSION,
        "MinAPIVersion": MIN_VERSION,
        "GitCommit": "",
        "GoVersion": f"python{platform.python_version()}",
        "Os": "linux",
        "Arch": platforms.here().architecture,
        "KernelVersion": platform.release(),
        "BuildTime": "",
    }


def _os_name() -> str:
    return _os_release().get("PRETTY_NAME", "Linux")


def _os_release() -> dict[str, str]:
    """os-release(5), which a machine need not have."""
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}
