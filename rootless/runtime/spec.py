"""What the engine asks the launcher to run: frozen values, JSON on the wire, no policy.

The engine has already decided everything (defaults applied, names resolved, paths absolute, image mounted); the plan
(`runtime.plan`) turns a spec into steps. Only what can be known *inside* the container is left open: the user by name
(/etc/passwd of the container) and the command's place on PATH."""

from __future__ import annotations

from dataclasses import dataclass, field

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class UnionSpec:
    """The layers below a container's own in driver `fuse`, named as MountImage names an image; `kind` mounted: `tree`
    is where that is mounted already."""

    kind: str
    tree: str
    layers: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class RootSpec:
    """The root file system: `upper` and `work` are absolute directories of the user's on one file system. Driver
    `fuse+overlay`: `lower` is where the launcher mounted the image (see MountImage). Driver `fuse`: `union` says what
    the launcher has to serve, and it fills in `lower`, the place where it did. `read_only` is docker's --read-only."""

    lower: str
    upper: str
    work: str
    read_only: bool = False
    union: UnionSpec | None = None


@dataclass(frozen=True)
class MountSpec:
    """`kind` is bind or tmpfs; `target` absolute inside the container; `options` in mount(8)'s words
    (ro, rw, nosuid, nodev, noexec, rbind, rprivate, rslave, rshared, size=64m, mode=1777 …). `populate`: an empty
    source first takes over what the image has at the target."""

    kind: str
    target: str
    source: str = ""
    options: tuple[str, ...] = ()
    populate: bool = False


@dataclass(frozen=True)
class GuestNetwork:
    """The TAP a container gets. Addresses with prefix length ("172.17.0.2/16"); `mac` "02:42:ac:11:00:02". A gateway is
    given for the one that has the default route. `names` are its names for everybody on the network, `private_names`
    (name -> addresses) what only it sees, `resolvers` are asked in place of the host's.
    `fast`: outgoing connections become sockets of the host's, see slirp.fast."""

    network_id: str
    endpoint_id: str
    interface: str
    mac: str
    mtu: int
    address4: str
    gateway4: str
    address6: str = ""
    gateway6: str = ""
    names: tuple[str, ...] = ()
    private_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    resolvers: tuple[str, ...] = ()
    fast: bool = False


@dataclass(frozen=True)
class ProcessSpec:
    """One process: the container's first, or an exec. `user` is docker's: "", "name", "uid", "uid:gid", "name:group".
    `environment` is complete but for HOME, which is filled in from /etc/passwd when absent.
    `capabilities` are kernel names without CAP_, for root; another user gets them as bounding set only."""

    args: tuple[str, ...]
    environment: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = ""
    additional_groups: tuple[str, ...] = ()
    terminal: bool = False
    terminal_size: tuple[int, int] = (0, 0)  # rows, columns; (0, 0): leave it
    open_stdin: bool = False
    capabilities: tuple[str, ...] = ()
    no_new_privileges: bool = False


@dataclass(frozen=True)
class ContainerSpec:
    """A container about to start. `network` is private (own namespace with `guest_networks`, may be none of them),
    host, or container:<id>: that container's, whose user namespace it shares as well."""

    container_id: str
    hostname: str
    root: RootSpec
    process: ProcessSpec
    domainname: str = ""
    mounts: tuple[MountSpec, ...] = ()
    network: str = "private"
    guest_networks: tuple[GuestNetwork, ...] = ()
    pid: str = "private"  # or host
    ipc: str = "private"  # or host
    uts: str = "private"  # or host
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    shm_bytes: int = 64 << 20
    init: bool = False  # docker's --init: our PID 1 reaps and forwards signals
    privileged: bool = False
