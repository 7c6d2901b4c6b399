"""The messages between engine and launcher: one SEQPACKET datagram each, JSON, file descriptors beside it.

    {"type": <class name>, "id": <request number>, ...fields}      engine -> launcher
    {"type": "Reply" | "Failure", "id": <the same>, ...}           launcher -> engine, one for every request
    {"type": <event class name>, ...}                              launcher -> engine, unasked

A message over INLINE_BYTES travels in a memfd: {"type": "Memfd"} with the descriptor first in the list.
The launcher accepts any number of connections (the newest engine gets the events); it takes peers of its own uid only.
Nothing here has policy: the engine says what, the launcher does it and remembers it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rootless.runtime.spec import ContainerSpec, GuestNetwork, ProcessSpec

INLINE_BYTES = 60_000
PROTOCOL_VERSION = 1


# ------------------------------------------------------------------------------------------------ engine -> launcher
@dataclass(frozen=True)
class Hello:
    """-> Reply(result={pid, version, protocol, uid_map: [[inside, outside, count]…], gid_map, single_id: bool,
    mounts_dir, containers: {container_id: pid}, execs: {exec_id: pid}, exits: [Exited as dict…],
    images: {key: path}, networks: [network_id…], endpoints: {container_id: [GuestNetwork as dict…]}}).
    Marks this connection as the engine: events go here from now on."""

    engine_version: str


@dataclass(frozen=True)
class MountImage:
    """Serve a read-only tree by FUSE, once for all containers. `kind` is "tree" (`tree` a tree index, `layers` the
    layer directories, lowest first) or "directory" (`tree` a directory of this machine, `exclude` names left out at
    its top). -> Reply({path}). Mounting what is mounted already answers the same path."""

    key: str
    kind: str
    tree: str
    layers: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class UnmountImage:
    """-> Reply({}). Lazy (MNT_DETACH): a container still using it keeps it until its end."""

    key: str


@dataclass(frozen=True)
class StartContainer:
    """-> Reply({pid, warnings: [str…]}, descriptors) once the command's execve has succeeded; pid as the host sees it.
    Descriptors: terminal: [master]; else [stdin?] stdout, stderr: the engine's ends, stdin first only if open_stdin.
    The launcher keeps duplicates until Forget. -> Failure(step, errno, message, exit_code) leaves nothing behind."""

    spec: ContainerSpec


@dataclass(frozen=True)
class ProbeOverlay:
    """Whether the kernel's overlayfs takes `directory`'s file system as upper in a user namespace.
    -> Reply({reason}), empty where it does."""

    directory: str


@dataclass(frozen=True)
class StartExec:
    """Another process in a running container; as StartContainer. `container_id` must be running.
    `privileged` gives it all capabilities of the container's user namespace."""

    exec_id: str
    container_id: str
    process: ProcessSpec
    privileged: bool = False


@dataclass(frozen=True)
class Stdio:
    """The descriptors of a container or exec again, for an engine that was restarted. -> Reply({names}, descriptors)
    with names among "terminal", "stdin", "stdout", "stderr" in the order of the descriptors."""

    process_id: str


@dataclass(frozen=True)
class CloseStdin:
    """Close the launcher's duplicate of the write end, so that the container sees end of file. -> Reply({})."""

    process_id: str


@dataclass(frozen=True)
class Signal:
    """Send `signal` (number) to a container's first process, or an exec's. `all_processes`: to every process of the
    container. -> Reply({}) or Failure(errno=ESRCH)."""

    process_id: str
    signal: int
    all_processes: bool = False


@dataclass(frozen=True)
class Forget:
    """The exit code of this container or exec is safe on disk: drop it and its descriptors. -> Reply({})."""

    process_id: str


@dataclass(frozen=True)
class RemoveTree:
    """Delete a directory whose files may belong to subordinate ids. Must lie below `allowed_root` given at launch.
    Done in a child; -> Reply({}) when gone."""

    path: str


@dataclass(frozen=True)
class WorkOnFiles:
    """Do something with a container's files in a child (see `launcher.container_files`). Two descriptors come along:
    the one bytes go to or come from, and a pipe that gets the result as JSON at the end. -> Reply({}) at once.

    `action`: "changes", "size" (no data), "layer", "export" (a tar out; `freeze`: its processes stand still meanwhile);
    of the files as the container sees them, with `path`: "stat" (no data), "read" (a tar out), "write" (a tar in;
    `replace`: a directory may take the place of a file and the other way round). `tree` and
    `layers` are the image's, see MountImage; `spec` is the container's, with or without it running."""

    action: str
    spec: ContainerSpec
    tree: str = ""
    layers: tuple[str, ...] = ()
    path: str = ""
    replace: bool = False
    freeze: bool = False


@dataclass(frozen=True)
class StartNetwork:
    """Start a network process. `config` is slirp.NetworkConfig as a dict. -> Reply({pid}); one that runs: Reply."""

    network_id: str
    config: dict[str, object]


@dataclass(frozen=True)
class NetworkCommand:
    """Pass `command` (a dict of slirp.control) with this message's descriptors to the network process; the launcher
    keeps both under `key` and repeats them to a restarted process, until a command comes with `forget_key` = that key,
    which also forgets what is kept under keys that begin with it and a slash.
    -> Reply({...what the network answered}) or Failure."""

    network_id: str
    command: dict[str, object]
    key: str = ""
    forget_key: str = ""


@dataclass(frozen=True)
class ConnectNetwork:
    """Give a running container one more device. -> Reply({}) or Failure, and nothing has changed then."""

    container_id: str
    network: GuestNetwork


@dataclass(frozen=True)
class DisconnectNetwork:
    """Take an endpoint's device away, with all that is kept for it. -> Reply({}), also where there is none."""

    container_id: str
    network_id: str
    endpoint_id: str


@dataclass(frozen=True)
class RouteNetwork:
    """Make a container's default routes go through this device. -> Reply({}) or Failure."""

    container_id: str
    interface: str
    gateway4: str
    gateway6: str = ""


@dataclass(frozen=True)
class StopNetwork:
    network_id: str


@dataclass(frozen=True)
class Shutdown:
    """End every child and leave. Refused (Failure EBUSY) while containers run, unless `force`."""

    force: bool = False


Request = (
    Hello
    | MountImage
    | UnmountImage
    | ProbeOverlay
    | StartContainer
    | StartExec
    | Stdio
    | CloseStdin
    | Signal
    | Forget
    | RemoveTree
    | WorkOnFiles
    | StartNetwork
    | NetworkCommand
    | ConnectNetwork
    | DisconnectNetwork
    | RouteNetwork
    | StopNetwork
    | Shutdown
)


# ------------------------------------------------------------------------------------------------ launcher -> engine
@dataclass(frozen=True)
class Reply:
    id: int
    result: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """`step` names what was being done ("mount /proc", "exec"), `exit_code` is docker's 125, 126 or 127."""

    id: int
    step: str
    errno: int
    message: str
    exit_code: int = 125


@dataclass(frozen=True)
class Exited:
    """A container's first process or an exec ended. `status` is the shell's: code, or 128 + signal number.
    Repeated to every new engine (Hello) until Forget."""

    process_id: str
    kind: str  # container or exec
    status: int
    finished_at: float  # Unix time, seconds


@dataclass(frozen=True)
class Died:
    """A server died; it is started again on the same descriptors unless it is given up. `kind` is image, union or
    network."""

    kind: str
    key: str
    reason: str
    given_up: bool


Event = Exited | Died
