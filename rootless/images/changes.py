"""`--change` of import and commit: Dockerfile instructions that alter an image's configuration. Pure.

Source: docker's documentation of `docker import --change`, OCI image-spec config.md."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from rootless.model.errors import InvalidParameter


def apply(config: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """The `config` object of an image with the changes made. Raises InvalidParameter naming the change."""
    made = json.loads(json.dumps(config))
    for change in changes:
        for line in change.splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                _apply_one(made, line.strip())
    assert isinstance(made, dict)
    return made


def _apply_one(config: dict[str, Any], line: str) -> None:
    keyword, _, rest = line.partition(" ")
    rest = rest.strip()
    if not rest:
        raise InvalidParameter(f"change {line!r} has no value")
    match keyword.upper():
        case "CMD":
            config["Cmd"] = _command(rest)
        case "ENTRYPOINT":
            config["Entrypoint"] = _command(rest)
        case "ENV":
            environment = dict(text.partition("=")[::2] for text in config.get("Env") or [])
            environment.update(_pairs(rest))
            config["Env"] = [f"{name}={value}" for name, value in environment.items()]
        case "LABEL":
            config["Labels"] = {**(config.get("Labels") or {}), **dict(_pairs(rest))}
        case "EXPOSE":
            for word in rest.split():
                port, _, protocol = word.partition("/")
                if not all(part.isdecimal() and 0 < int(part) < 65536 for part in port.split("-")):
                    raise InvalidParameter(f"change {line!r}: invalid containerPort: {word}")
                config.setdefault("ExposedPorts", {})[f"{port}/{protocol.lower() or 'tcp'}"] = {}
        case "VOLUME":
            for path in _list(rest):
                config.setdefault("Volumes", {})[path] = {}
        case "USER":
            config["User"] = rest
        case "WORKDIR":
            config["WorkingDir"] = rest if rest.startswith("/") else f"{config.get('WorkingDir') or ''}/{rest}"
        case "STOPSIGNAL":
            config["StopSignal"] = rest
        case "ONBUILD":
            config["OnBuild"] = [*(config.get("OnBuild") or []), rest]
        case "HEALTHCHECK":
            config["Healthcheck"] = _health(line, rest)
        case "SHELL":
            config["Shell"] = _list(rest)
        case _:
            raise InvalidParameter(f"{keyword.lower()} is not a valid change command")


def _command(rest: str) -> list[str]:
    """The JSON form as it is, anything else for the shell."""
    return _json_list(rest) or ["/bin/sh", "-c", rest]


def _list(rest: str) -> list[str]:
    return _json_list(rest) or rest.split()


def _json_list(text: str) -> list[str] | None:
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def _pairs(rest: str) -> list[tuple[str, str]]:
    """`A=b C="d e"`, or the old form `A b c`."""
    first = rest.split(None, 1)[0]
    if "=" not in first:
        name, _, value = rest.partition(" ")
        if not value.strip():
            raise InvalidParameter(f"{name} must have a value: write {name}=…")
        return [(name, value.strip())]
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise InvalidParameter(f"{rest!r}: {error}") from error
    for word in words:
        if "=" not in word or word.startswith("="):
            raise InvalidParameter(f"Syntax error - can't find = in {word!r}. Must be of the form: name=value")
    return [(name, value) for name, _, value in (word.partition("=") for word in words)]


def _health(line: str, rest: str) -> dict[str, Any]:
    keyword, _, command = rest.partition(" ")
    if keyword.upper() == "NONE":
        return {"Test": ["NONE"]}
    if keyword.upper() != "CMD" or not command.strip():
        raise InvalidParameter(f"change {line!r}: HEALTHCHECK takes NONE or CMD … here")
    listed = _json_list(command.strip())
    return {"Test": ["CMD", *listed] if listed else ["CMD-SHELL", command.strip()]}
