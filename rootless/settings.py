"""Settings of one user: read once at the edge (engine, command line), then a frozen value that is passed in.

Each setting comes, last one wins, from: the default, `config.toml`, the environment variable ROOTLESS_<NAME>.
`Settings.origins` remembers which, for `rootless info`. Paths:

    data root     ~/.local/share/rootless            images, layers, trees, volumes; may be on a network file system
    state root    ~/.local/state/rootless            containers of this host; a local file system
    runtime dir   $XDG_RUNTIME_DIR/rootless, else /tmp/rootless-<uid>; sockets; 0700, ours, or we refuse it
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from rootless.model.errors import InvalidParameter, RootlessError

if TYPE_CHECKING:
    from rootless.registry.configuration import Policy, RegistryRules

STORAGE_DRIVERS = ("auto", "fuse+overlay", "fuse")


@dataclass(frozen=True)
class Settings:
    """All settings, in force. Lists are written comma-separated in the environment."""

    data_root: Path
    state_root: Path
    runtime_dir: Path
    storage_driver: str = "auto"
    idle_seconds: float = 600.0  # the engine leaves after this long without containers, clients or work
    insecure_registries: tuple[str, ...] = ()  # host[:port] spoken to without TLS; loopback is always allowed
    additional_stores: tuple[Path, ...] = ()  # data roots of others, only read
    registry_mirrors: tuple[str, ...] = ()  # of docker.io
    registries: Mapping[str, RegistryRules] = field(default_factory=dict)  # tables of config.toml
    policy: Policy | None = None
    bridge_subnet: str = "172.17.0.0/16"
    bridge_subnet6: str = ""  # IPv6 on the default network too, e.g. fd00:17::/64
    host_loopback: bool = False  # containers may reach the host's loopback, as host.docker.internal
    mtu: int = 1500
    debug: bool = False
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def api_socket(self) -> Path:
        return self.runtime_dir / "docker.sock"

    @property
    def engine_lock(self) -> Path:
        """Held by the one engine of this state root; its text is where that listens (see store.process_lock)."""
        return self.state_root / "engine.lock"

    @property
    def engine_log(self) -> Path:
        """What an engine that nobody watches has to say."""
        return self.runtime_dir / "engine.log"

    @property
    def launcher_socket(self) -> Path:
        return self.runtime_dir / "launcher.sock"

    @property
    def warm_socket(self) -> Path:
        """Where the fork server for command lines listens (see docs/architecture.md)."""
        return self.runtime_dir / "warm.sock"


def config_path(environment: Mapping[str, str]) -> Path:
    """Where config.toml is: $ROOTLESS_CONFIG, else $XDG_CONFIG_HOME/rootless, else ~/.config/rootless."""
    if explicit := environment.get("ROOTLESS_CONFIG"):
        return Path(explicit)
    return _xdg(environment, "XDG_CONFIG_HOME", ".config") / "rootless" / "config.toml"


def load(environment: Mapping[str, str]) -> Settings:
    """Read config.toml and the environment.

    Raises InvalidParameter naming the file or variable, the setting and what it should be."""
    values: dict[str, object] = {
        "data_root": _xdg(environment, "XDG_DATA_HOME", ".local/share") / "rootless",
        "state_root": _xdg(environment, "XDG_STATE_HOME", ".local/state") / "rootless",
        "runtime_dir": _default_runtime_dir(environment),
    }
    origins = {f.name: "default" for f in fields(Settings) if f.name != "origins"}
    for name, value, origin in (*_from_file(config_path(environment)), *_from_environment(environment)):
        values[name] = _convert(name, value, origin)
        origins[name] = origin
    return Settings(**values, origins=origins)  # type: ignore[arg-type]


def ensure_runtime_dir(settings: Settings) -> None:
    """Create the runtime directory 0700, or check that the one there is ours and closed to others.

    Raises RootlessError where it belongs to somebody else, is a link, or is open to others."""
    path = settings.runtime_dir
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise RootlessError(
            f"cannot make the runtime directory {path}: {error.strerror}; set ROOTLESS_RUNTIME_DIR to a directory "
            "of yours on a local file system"
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise RootlessError(
            f"the runtime directory {path} is not a directory of yours; remove it or set ROOTLESS_RUNTIME_DIR"
        )
    if status.st_mode & 0o077:
        raise RootlessError(f"the runtime directory {path} is open to others; run: chmod 700 {path}")


def _xdg(environment: Mapping[str, str], variable: str, below_home: str) -> Path:
    value = environment.get(variable, "")
    if value.startswith("/"):  # the XDG specification: a relative path is to be ignored
        return Path(value)
    return Path(environment.get("HOME") or os.path.expanduser("~")) / below_home


def _default_runtime_dir(environment: Mapping[str, str]) -> Path:
    value = environment.get("XDG_RUNTIME_DIR", "")
    if value.startswith("/") and os.access(value, os.W_OK | os.X_OK):
        return Path(value) / "rootless"
    return Path(f"/tmp/rootless-{os.getuid()}")


def _from_file(path: Path) -> list[tuple[str, object, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"cannot read {path}: {error}") from error
    import tomllib  # 2 ms that every command would pay, and few users have a file

    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidParameter(f"{path} is not valid TOML: {error}") from error
    known = {f.name for f in fields(Settings)} - {"origins"}
    for name in table:
        if name not in known:
            raise InvalidParameter(f"{path}: unknown setting {name!r}; known are {', '.join(sorted(known))}")
    return [(name, value, str(path)) for name, value in table.items()]


def _from_environment(environment: Mapping[str, str]) -> list[tuple[str, object, str]]:
    found: list[tuple[str, object, str]] = []
    for f in fields(Settings):
        variable = "ROOTLESS_" + f.name.upper()
        if f.name != "origins" and environment.get(variable):
            found.append((f.name, environment[variable], variable))
    return found


def _convert(name: str, value: object, origin: str) -> object:
    try:
        if name in ("data_root", "state_root", "runtime_dir"):
            path = Path(str(value)).expanduser()
            if not path.is_absolute():
                raise ValueError("an absolute path")
            return path
        if name in ("insecure_registries", "registry_mirrors"):
            items = value.split(",") if isinstance(value, str) else value
            if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
                raise ValueError("a list of strings")
            return tuple(item.strip() for item in items if item.strip())
        if name == "additional_stores":
            items = value.split(",") if isinstance(value, str) else value
            if not isinstance(items, list) or not all(isinstance(item, str) and item.startswith("/") for item in items):
                raise ValueError("a list of absolute paths")
            return tuple(Path(item.strip()) for item in items)
        if name in ("registries", "policy"):
            from rootless.registry import configuration  # only where there is such a table

            return configuration.registries(value) if name == "registries" else configuration.policy(value)
        if name == "storage_driver":
            if value not in STORAGE_DRIVERS:
                raise ValueError("one of " + ", ".join(STORAGE_DRIVERS))
            return value
        if name == "idle_seconds":
            seconds = float(str(value))
            if seconds < 0:
                raise ValueError("a number of seconds, 0 or more")
            return seconds
        if name == "mtu":
            mtu = int(str(value))
            if not 576 <= mtu <= 65520:
                raise ValueError("a number from 576 to 65520")
            return mtu
        if name in ("debug", "host_loopback"):
            return _boolean(value)
        return str(value)
    except ValueError as error:
        raise InvalidParameter(f"{origin}: {name} is {value!r}, should be {error}") from error


def _boolean(value: object) -> bool:
    text = str(value).lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ValueError("true or false")
