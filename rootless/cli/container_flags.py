"""The flags that `run` and `create` share: all of docker's. What they mean is said in `creation`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rootless.cli.command import flag, switch
from rootless.cli.types import CPUS, DURATION, ENVIRONMENT, INTEGER, SIZE, Kind

_MAP = Kind("map", str)


def _many(*spellings: str, help: str, kind: Any = None) -> Callable[[Any], Any]:
    return flag(*spellings, multiple=True, kind=kind, help=help)


IDENTITY = [
    flag("--name", help="Name of the container; made up where it is not given"),
    flag("--cidfile", help="Write the container's id to this new file"),
    _many("-l", "--label", help="Label, name=value"),
    _many("--label-file", help="File of labels, one a line"),
    _many("--annotation", kind=_MAP, help="Annotation for the runtime, name=value"),
    flag("--platform", help="Platform of the image, e.g. linux/arm64"),
    flag("--pull", default="missing", help="Get the image first: always, missing, never; lazy: run before it is here"),
    switch("-q", "--quiet", help="No word about getting the image"),
    switch("--disable-content-trust", default=True, hidden=True, help="No effect here"),
    switch("--rm", help="Remove the container, and its anonymous volumes, when it ends"),
    flag("--restart", default="", help="When to start it again: no, on-failure[:max], always, unless-stopped"),
    flag("--runtime", default="", help="Runtime for this container"),
]
PROCESS = [
    _many("-a", "--attach", help="Attach to stdin, stdout or stderr only"),
    switch("-i", "--interactive", help="Keep standard input open"),
    switch("-t", "--tty", help="Give it a terminal"),
    _many("-e", "--env", kind=ENVIRONMENT, help="Environment variable, name=value; the name alone takes it from here"),
    _many("--env-file", help="File of environment variables, one a line"),
    flag("--entrypoint", help="Command in place of the image's entry point"),
    flag("-w", "--workdir", default="", help="Directory to start in"),
    flag("-u", "--user", default="", help="User, and group: name|uid[:group|gid]"),
    _many("--group-add", help="Further group"),
    switch("--init", help="Run a small init as PID 1, which reaps and forwards signals"),
    flag("--stop-signal", help="Signal that `stop` sends"),
    flag("--stop-timeout", kind=INTEGER, help="Seconds `stop` waits before it kills"),
    _many("--ulimit", kind=Kind("ulimit", str), help="Limit of its processes, name=soft[:hard]"),
    flag("--oom-score-adj", kind=INTEGER, default=0, help="How readily the kernel kills it when memory is short"),
    switch("--oom-kill-disable", help="Do not kill it when memory is short"),
]
FILES = [
    _many("-v", "--volume", help="Directory or volume of the host, [source:]target[:options]"),
    _many("--mount", kind=Kind("mount", str), help="Mount, type=bind|volume|tmpfs,source=…,target=…"),
    _many("--tmpfs", help="Directory in memory, target[:options]"),
    _many("--volumes-from", help="All volumes of another container"),
    flag("--volume-driver", default="", help="Driver of the volumes that are made"),
    switch("--read-only", help="Nobody may write to its root file system"),
    flag("--shm-size", kind=SIZE, default=0, help="Size of /dev/shm"),
    _many("--storage-opt", help="Option of the storage driver, name=value"),
    _many("--device", help="Device of the host, path[:path inside[:rwm]]"),
    _many("--device-cgroup-rule", help="Rule for devices, e.g. c 42:* rmw"),
    flag("--gpus", kind=Kind("gpu-request", str), help="GPUs, `all` or a number"),
    switch("--use-api-socket", hidden=True, help="Not supported"),
]
NETWORK = [
    _many("--network", "--net", kind=Kind("network", str), help="Network: a name, bridge, host, none, container:NAME"),
    _many("--network-alias", "--net-alias", help="Further name on the network"),
    _many("-p", "--publish", help="Publish a port, [[address:]port:]port inside[/protocol]"),
    switch("-P", "--publish-all", help="Publish all exposed ports to free ones"),
    _many("--expose", help="Port or range it listens on"),
    flag("-h", "--hostname", default="", help="Host name inside"),
    flag("--domainname", default="", help="Domain name inside"),
    _many("--add-host", help="Line of /etc/hosts, name:address"),
    _many("--dns", help="DNS server"),
    _many("--dns-option", "--dns-opt", help="Option of the resolver"),
    _many("--dns-search", help="Domain to search"),
    flag("--ip", default="", help="IPv4 address"),
    flag("--ip6", default="", help="IPv6 address"),
    _many("--link-local-ip", help="Not supported: refused"),
    flag("--mac-address", default="", help="MAC address"),
    _many("--link", help="Link to another container, name[:alias]"),
]
SECURITY = [
    _many("--cap-add", help="Capability more than the default ones"),
    _many("--cap-drop", help="Capability less"),
    switch("--privileged", help="All capabilities, nothing masked; still no more than the user may"),
    _many("--security-opt", help="no-new-privileges, seccomp=…, apparmor=…, label=…"),
    flag("--userns", default="", help="User namespace"),
    flag("--uts", default="", help="UTS namespace: host, or one of its own"),
    flag("--ipc", default="", help="IPC namespace: host, private, shareable, container:NAME"),
    flag("--pid", default="", help="PID namespace: host, container:NAME"),
    flag("--cgroupns", default="", help="cgroup namespace: host, private"),
    _many("--sysctl", kind=_MAP, help="Kernel parameter of its namespaces, name=value"),
    flag("--isolation", default="", hidden=True, help="Windows only"),
]
LIMITS = [
    flag("-m", "--memory", kind=SIZE, default=0, help="Memory"),
    flag("--memory-reservation", kind=SIZE, default=0, help="Memory it is brought back to when that is short"),
    flag("--memory-swap", kind=SIZE, default=0, help="Memory and swap together; -1 for no limit of swap"),
    flag("--memory-swappiness", kind=INTEGER, default=-1, help="How readily it is swapped out, 0 to 100"),
    flag("--kernel-memory", kind=SIZE, default=0, hidden=True, help="Not used any more"),
    flag("--cpus", kind=CPUS, default=0, help="Number of CPUs, e.g. 1.5"),
    flag("-c", "--cpu-shares", kind=INTEGER, default=0, help="Weight against others"),
    flag("--cpu-period", kind=INTEGER, default=0, help="Period of the CPU quota, microseconds"),
    flag("--cpu-quota", kind=INTEGER, default=0, help="CPU time in a period, microseconds"),
    flag("--cpu-rt-period", kind=INTEGER, default=0, help="Period of real-time CPU, microseconds"),
    flag("--cpu-rt-runtime", kind=INTEGER, default=0, help="Real-time CPU in a period, microseconds"),
    flag("--cpuset-cpus", default="", help="CPUs it may use, e.g. 0-3,7"),
    flag("--cpuset-mems", default="", help="Memory nodes it may use"),
    flag("--cpu-count", kind=INTEGER, default=0, hidden=True, help="Windows only"),
    flag("--cpu-percent", kind=INTEGER, default=0, hidden=True, help="Windows only"),
    flag("--pids-limit", kind=INTEGER, default=0, help="Number of processes; -1 for no limit"),
    flag("--blkio-weight", kind=Kind("uint16", int), default=0, help="Weight of block I/O, 10 to 1000"),
    _many("--blkio-weight-device", help="Weight for a device, path:weight"),
    _many("--device-read-bps", help="Read rate of a device, path:bytes"),
    _many("--device-read-iops", help="Reads a second of a device, path:number"),
    _many("--device-write-bps", help="Write rate of a device, path:bytes"),
    _many("--device-write-iops", help="Writes a second of a device, path:number"),
    flag("--io-maxbandwidth", kind=SIZE, default=0, hidden=True, help="Windows only"),
    flag("--io-maxiops", kind=Kind("uint", int), default=0, hidden=True, help="Windows only"),
    flag("--cgroup-parent", default="", help="Parent cgroup"),
]
HEALTH_AND_LOGS = [
    flag("--health-cmd", default="", help="Command that tells whether it is healthy"),
    flag("--health-interval", kind=DURATION, default=0, help="Time between two checks"),
    flag("--health-retries", kind=INTEGER, default=0, help="Failures in a row that make it unhealthy"),
    flag("--health-start-interval", kind=DURATION, default=0, help="Time between two checks while it starts"),
    flag("--health-start-period", kind=DURATION, default=0, help="Time in which failures do not count"),
    flag("--health-timeout", kind=DURATION, default=0, help="Time one check may take"),
    switch("--no-healthcheck", help="No health check, whatever the image says"),
    flag("--log-driver", default="", help="Driver for its output"),
    _many("--log-opt", help="Option of the log driver, name=value"),
]
ALL = [*IDENTITY, *PROCESS, *FILES, *NETWORK, *SECURITY, *LIMITS, *HEALTH_AND_LOGS]


def container_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Declare them all on a command's function, which takes them as `**options`."""
    for declare in reversed(ALL):
        function = declare(function)
    return function
