"""Files of environment variables and labels (`--env-file`, `--label-file`). Reads files; the rest is pure."""

from __future__ import annotations

from collections.abc import Mapping

from rootless.model.errors import InvalidParameter


def read_env_file(path: str, environment: Mapping[str, str] | None) -> list[str]:
    """Lines of `name=value`; blank lines and those that begin with # are left out.

    A name alone takes the value of `environment` and is left out where it has none; with no environment it stays as
    it is. Raises InvalidParameter."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise InvalidParameter(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    return parse_env_file(data, path, environment)


def parse_env_file(data: bytes, path: str, environment: Mapping[str, str] | None) -> list[str]:
    """See read_env_file."""
    found: list[str] = []
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            line = raw.decode().lstrip()
        except UnicodeDecodeError:
            raise InvalidParameter(f"env file {path} contains invalid utf8 bytes at line {number}") from None
        if not line or line.startswith("#"):
            continue
        name, equals, _ = line.partition("=")
        if not name:
            raise InvalidParameter(f"no variable name on line '{line}'")
        if any(character.isspace() for character in name):
            raise InvalidParameter(f"variable '{name}' contains whitespaces")
        if equals or environment is None:
            found.append(line)
        elif name in environment:
            found.append(f"{name}={environment[name]}")
    return found


def environment_list(files: tuple[str, ...], given: tuple[str, ...], environment: Mapping[str, str]) -> list[str]:
    """--env-file's and --env's variables in that order. A name alone that is not set here is sent as it is: it takes
    the variable away from the container. Raises InvalidParameter."""
    found = [line for path in files for line in read_env_file(path, environment)]
    for variable in given:
        name, equals, _ = variable.partition("=")
        found.append(variable if equals or name not in environment else f"{name}={environment[name]}")
    return found


def labels(files: tuple[str, ...], given: tuple[str, ...]) -> dict[str, str]:
    """--label-file's and --label's labels. Raises InvalidParameter."""
    lines = [line for path in files for line in read_env_file(path, None)]
    return mapping((*lines, *given))


def mapping(pairs: tuple[str, ...]) -> dict[str, str]:
    """("a=b", "c") -> {"a": "b", "c": ""}."""
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}
