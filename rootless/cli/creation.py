"""The flags of `run` and `create` -> the body of POST /containers/create.

Pure but for the files that flags name (--env-file, --label-file, seccomp profiles). What the API has a field for is
sent, whether the engine can do it is for the engine to say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rootless.cli import limits
from rootless.cli.env_files import environment_list, labels, mapping
from rootless.cli.mounts import mounts, tmpfs, volumes
from rootless.cli.networks import endpoints
from rootless.cli.ports import exposed, published
from rootless.model.errors import InvalidParameter

Options = Mapping[str, Any]
STREAMS = ("stdin", "stdout", "stderr")


def body(
    image: str, words: Sequence[str], options: Options, environment: Mapping[str, str], directory: str
) -> dict[str, Any]:
    """Config, HostConfig and NetworkingConfig in one. Raises InvalidParameter, FlagError."""
    bindings = published(options["publish"])
    binds, anonymous = volumes(options["volume"], directory)
    attached = attached_streams(options)
    config: dict[str, Any] = {
        "Hostname": options["hostname"],
        "Domainname": options["domainname"],
        "User": options["user"],
        "AttachStdin": "stdin" in attached,
        "AttachStdout": "stdout" in attached,
        "AttachStderr": "stderr" in attached,
        "ExposedPorts": {name: {} for name in bindings} | exposed(options["expose"]),
        "Tty": options["tty"],
        "OpenStdin": options["interactive"],
        "StdinOnce": options["interactive"] and "stdin" in attached,
        "Env": environment_list(options["env_file"], options["env"], environment),
        "Cmd": list(words) or None,
        "Image": image,
        "Volumes": anonymous,
        "WorkingDir": options["workdir"],
        "Entrypoint": _entrypoint(options["entrypoint"]),
        "Labels": labels(options["label_file"], options["label"]),
        "Healthcheck": _health_check(options),
        "StopSignal": options["stop_signal"],
        "StopTimeout": options["stop_timeout"],
        "MacAddress": options["mac_address"],
    }
    config = {name: value for name, value in config.items() if value not in (None, "")}
    host = {**_host_config(options, environment, directory), "Binds": binds, "PortBindings": bindings}
    mode, networks = endpoints(options)
    return {
        **config,
        "HostConfig": {**host, "NetworkMode": mode},
        "NetworkingConfig": {"EndpointsConfig": networks},
    }


def attached_streams(options: Options) -> tuple[str, ...]:
    """Which of the container's streams the caller is attached to. Raises InvalidParameter."""
    for name in options["attach"]:
        if name.lower() not in STREAMS:
            raise InvalidParameter(
                f'invalid argument "{name}" for "-a, --attach" flag: valid streams are STDIN, STDOUT and STDERR'
            )
    if options["attach"]:
        return tuple(name.lower() for name in options["attach"])
    if options.get("detach"):
        return ()
    return ("stdin", "stdout", "stderr") if options["interactive"] else ("stdout", "stderr")


def _host_config(options: Options, environment: Mapping[str, str], directory: str) -> dict[str, Any]:
    security, masked = _security(options["security_opt"])
    if options["use_api_socket"]:
        raise InvalidParameter("--use-api-socket is not supported")
    host: dict[str, Any] = {
        "AutoRemove": options["rm"],
        "RestartPolicy": restart_policy(options["restart"], options["rm"]),
        "ContainerIDFile": options["cidfile"] or "",
        "LogConfig": {"Type": options["log_driver"], "Config": mapping(options["log_opt"])},
        "VolumeDriver": options["volume_driver"],
        "VolumesFrom": list(options["volumes_from"]) or None,
        "CapAdd": list(options["cap_add"]) or None,
        "CapDrop": list(options["cap_drop"]) or None,
        "CgroupnsMode": options["cgroupns"],
        "Dns": list(options["dns"]),
        "DnsOptions": list(options["dns_option"]),
        "DnsSearch": list(options["dns_search"]),
        "ExtraHosts": [_extra_host(text) for text in options["add_host"]] or None,
        "GroupAdd": list(options["group_add"]) or None,
        "IpcMode": options["ipc"],
        "Links": list(options["link"]) or None,
        "OomScoreAdj": options["oom_score_adj"],
        "PidMode": options["pid"],
        "Privileged": options["privileged"],
        "PublishAllPorts": options["publish_all"],
        "ReadonlyRootfs": options["read_only"],
        "SecurityOpt": security or None,
        "StorageOpt": mapping(options["storage_opt"]) or None,
        "Tmpfs": tmpfs(options["tmpfs"]) or None,
        "UTSMode": options["uts"],
        "UsernsMode": options["userns"],
        "ShmSize": options["shm_size"],
        "Sysctls": mapping(options["sysctl"]) or None,
        "Annotations": mapping(options["annotation"]) or None,
        "Runtime": options["runtime"] or None,
        "Isolation": options["isolation"],
        "Mounts": mounts(options["mount"], directory) or None,
        "Init": True if options["init"] else None,
        **limits.resources(options),
        **masked,
    }
    return {name: value for name, value in host.items() if value is not None}


def restart_policy(text: str, auto_remove: bool) -> dict[str, Any]:
    """("on-failure:3") -> {"Name": "on-failure", "MaximumRetryCount": 3}. Raises InvalidParameter."""
    name, colon, count = text.partition(":")
    if colon and not name:
        raise InvalidParameter("invalid restart policy format: no policy provided before colon")
    if count and not count.isdecimal():
        raise InvalidParameter("invalid restart policy format: maximum retry count must be an integer")
    if auto_remove and name not in ("", "no"):
        raise InvalidParameter("conflicting options: cannot specify both --restart and --rm")
    return {"Name": name or "no", "MaximumRetryCount": int(count or 0)}


def _entrypoint(text: str | None) -> list[str] | None:
    """An empty one takes the image's away: sent as [""], as docker does."""
    return None if text is None else [text]


def _extra_host(text: str) -> str:
    name, separator, address = text.partition("=") if "=" in text.partition(":")[0] else text.partition(":")
    if not separator or not name or not address:
        raise InvalidParameter(f'invalid argument "{text}" for "--add-host" flag: bad format for add-host: "{text}"')
    return f"{name}:{address.removeprefix('[').removesuffix(']')}"


def _security(options: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """(SecurityOpt, the fields of HostConfig for systempaths=unconfined). A seccomp profile is sent, not its path."""
    sent: list[str] = []
    masked: dict[str, Any] = {}
    for option in options:
        name, separator, value = option.partition("=") if "=" in option else option.partition(":")
        if not separator and name != "no-new-privileges":
            raise InvalidParameter(f'invalid --security-opt: "{option}"')
        if option == "systempaths=unconfined":
            masked = {"MaskedPaths": [], "ReadonlyPaths": []}
        elif name == "seccomp" and value not in ("unconfined", "builtin"):
            sent.append(f"seccomp={_profile(value)}")
        else:
            sent.append(option)
    return sent, masked


def _profile(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return json.dumps(json.load(file), separators=(",", ":"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidParameter(f"opening seccomp profile ({path}) failed: {reason}") from None


def _health_check(options: Options) -> dict[str, Any] | None:
    """Config.Healthcheck. Raises InvalidParameter."""
    values = {
        "Interval": options["health_interval"],
        "Timeout": options["health_timeout"],
        "StartPeriod": options["health_start_period"],
        "StartInterval": options["health_start_interval"],
        "Retries": options["health_retries"],
    }
    if options["no_healthcheck"]:
        if options["health_cmd"] or any(values.values()):
            raise InvalidParameter("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    for name, value in values.items():
        if value < 0:
            raise InvalidParameter(f"--health-{name.lower()} cannot be negative")
    check = {name: value for name, value in values.items() if value}
    if options["health_cmd"]:
        check["Test"] = ["CMD-SHELL", options["health_cmd"]]
    return check or None
