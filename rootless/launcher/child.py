"""What a child of the launcher does between clone and execve. Runs in the container's namespaces, as our Python.

It talks to the launcher over one SEQPACKET socket, closed by execve: end of file without a failure means success.

    <- "go"                                    the id maps are written
    -> {"type": "tap", "endpoint": …} + fd     a network device was made
    -> {"type": "terminal"} + fd               the pty's master
    -> {"type": "connects"} + fd               connect(2) is reported there from now on
    -> {"type": "command"} + pidfd             the command's, where docker's --init is the first process
    -> {"type": "warning", "text": …}
    -> {"type": "failed", step, errno, message, exit_code}

No thread, no trio, nothing imported late: the file system may be the container's already."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import sys
import termios
from collections.abc import Callable
from dataclasses import dataclass

from rootless.launcher import messages, wire
from rootless.runtime import accounts, perform, process
from rootless.runtime.plan import plan
from rootless.runtime.spec import ContainerSpec, GuestNetwork, ProcessSpec
from rootless.syscalls import Syscalls
from rootless.syscalls import numbers as n
from rootless.syscalls.kernel import clone

TIOCGPTN = 0x80045430  # include/uapi/asm-generic/ioctls.h
TIOCSPTLCK = 0x40045431
CHILD_FAILED = 70  # exit status nobody sees: a failure was reported before


@dataclass(frozen=True)
class ChildContext:
    """What a child inherits from the launcher."""

    syscalls: Syscalls
    root_mount: str
    last_capability: int
    id_count: int
    open_tap: Callable[[GuestNetwork], int]
    set_default_routes: Callable[[str, str, str], None]
    remove_veth: Callable[[str], None]
    loopback_up: Callable[[], None]
    notify_connects: Callable[[], int]


def container(channel: socket.socket, spec: ContainerSpec, stdio: tuple[int, int, int], context: ChildContext) -> None:
    """Become the container's first process. Does not return."""
    try:
        _prepare(context.syscalls)
        if channel.recv(16) != b"go":
            os._exit(CHILD_FAILED)
        context.syscalls.prctl(n.PR_SET_DUMPABLE, 0)  # nobody in the container may look at this interpreter
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        context.syscalls.mount("", "/", "", n.MS_PRIVATE | n.MS_REC)

        def send_tap(network: GuestNetwork) -> None:
            fd = context.open_tap(network)
            _send(channel, {"type": "tap", "endpoint": network.endpoint_id}, [fd])
            os.close(fd)

        def warn(text: str) -> None:
            _send(channel, {"type": "warning", "text": text})

        performer = perform.Performer(context.syscalls, context.root_mount, send_tap, context.loopback_up, warn)
        performer.perform(plan(spec, tty_group_mapped=context.id_count > 5))
        if spec.init:
            _init(channel, stdio, spec.process, context)
        fast = any(network.fast for network in spec.guest_networks)
        _become_and_execute(channel, stdio, spec.process, context, console=True, fast=fast)
    except BaseException as error:
        _fail(channel, error)


def execution(
    channel: socket.socket,
    pidfd: int,
    namespaces: int,
    container_process: ProcessSpec,
    stdio: tuple[int, int, int],
    context: ChildContext,
    *,
    fast: bool,
) -> None:
    """Enter a container's namespaces and become a further process of it. Does not return.

    `pidfd` is the container's first process. Only a child of the process that enters a pid namespace is in it: a
    second clone, with the launcher as the parent, so that the launcher reaps it."""
    try:
        _prepare(context.syscalls)
        context.syscalls.setns(pidfd, namespaces)
        os.close(pidfd)
        pid = clone(_CLONE_PARENT)
        if pid:
            _send(channel, {"type": "pid", "pid": pid})
            os._exit(0)
        context.syscalls.prctl(n.PR_SET_PDEATHSIG, signal.SIGKILL)
        context.syscalls.prctl(n.PR_SET_DUMPABLE, 0)
        os.chdir("/")
        _become_and_execute(channel, stdio, container_process, context, console=False, fast=fast)
    except BaseException as error:
        _fail(channel, error)


def joining(
    channel: socket.socket,
    pidfd: int,
    namespaces: int,
    spec: ContainerSpec,
    stdio: tuple[int, int, int],
    context: ChildContext,
) -> None:
    """Become the first process of a container that shares another's network, and its user namespace, without which it
    would have no power over the network. Does not return."""
    try:
        _prepare(context.syscalls)
        context.syscalls.setns(pidfd, n.CLONE_NEWUSER | n.CLONE_NEWNET)
        os.close(pidfd)
        pid = clone(namespaces | _CLONE_PARENT)
        if pid:
            _send(channel, {"type": "pid", "pid": pid})
            os._exit(0)
    except BaseException as error:
        _fail(channel, error)
    container(channel, spec, stdio, context)


@dataclass(frozen=True)
class RemoveDevice:
    """A device of a running container that does not go by itself."""

    container_id: str
    interface: str


InNetwork = messages.ConnectNetwork | messages.RouteNetwork | RemoveDevice


def in_network_of(
    pidfd: int,
    request: InNetwork,
    channel: socket.socket,
    context: ChildContext,
) -> None:
    """In a child of the launcher: a device more, or less, or other routes, in a running container's network namespace.
    Sends {} with the device, or {"errno", "message"}."""
    try:
        context.syscalls.setns(pidfd, n.CLONE_NEWNET)
        if isinstance(request, messages.ConnectNetwork):
            _send(channel, {"type": "made"}, [context.open_tap(request.network)])
        elif isinstance(request, RemoveDevice):
            context.remove_veth(request.interface)
            _send(channel, {"type": "made"})
        else:
            context.set_default_routes(request.interface, request.gateway4, request.gateway6)
            _send(channel, {"type": "made"})
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _send(channel, {"type": "failed", "errno": error.errno or 5, "message": f"{error.strerror}{where}"})


_CLONE_PARENT = 0x00008000


def _prepare(syscalls: Syscalls) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.umask(0o022)
    syscalls.prctl(n.PR_SET_PDEATHSIG, signal.SIGKILL)


def _become_and_execute(
    channel: socket.socket,
    stdio: tuple[int, int, int],
    spec: ProcessSpec,
    context: ChildContext,
    *,
    console: bool,
    fast: bool,
) -> None:
    who = process.account(spec)
    os.setsid()
    if spec.terminal:
        _terminal(channel, spec, who, context, console=console)
    else:
        _stdio(stdio, who)
    # channel is moved out of the way of 0, 1, 2 by the launcher; everything else that was inherited goes
    kept = channel.fileno()
    if kept > 3:
        context.syscalls.close_range(3, kept - 1)
    context.syscalls.close_range(kept + 1, 0xFFFFFFFF)
    process.enter_directory(spec.cwd)
    variables = process.environment(spec, who)
    if fast:  # a filter needs no_new_privs or the capability that `become` takes away
        _report_connects(channel, spec, context)
    process.become(who, spec, context.syscalls, last_capability=context.last_capability)
    context.syscalls.prctl(n.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of ids has cleared it
    path = process.command(spec, variables)
    process.execute(path, spec, variables)


def _report_connects(channel: socket.socket, spec: ProcessSpec, context: ChildContext) -> None:
    """Fast sockets, where they are right: not for who may give the container addresses and routes of its own."""
    if "NET_ADMIN" in spec.capabilities:
        return  # the engine has said so
    try:
        listener = context.notify_connects()
    except OSError as error:
        _send(channel, {"type": "warning", "text": f"no fast sockets: {error.strerror} (they need kernel 5.14)"})
        return
    _send(channel, {"type": "connects"}, [listener])
    os.close(listener)


def _stdio(stdio: tuple[int, int, int], who: accounts.Account) -> None:
    for number, fd in enumerate(stdio):
        os.dup2(fd, number, inheritable=True)
        try:
            # so that the process can open /dev/stdout again, whoever it is
            os.fchown(number, who.uid, who.gid)
        except OSError:
            continue  # /dev/null, or an id that is not mapped: only the reopening is lost


def _terminal(
    channel: socket.socket, spec: ProcessSpec, who: accounts.Account, context: ChildContext, *, console: bool
) -> None:
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
    (number,) = struct.unpack("i", fcntl.ioctl(master, TIOCGPTN, bytes(4)))
    path = f"/dev/pts/{number}"
    slave = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    rows, columns = (*spec.terminal_size, 0, 0)[:2]
    if rows or columns:
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    try:
        os.fchown(slave, who.uid, -1)
    except OSError:
        pass  # an id that is not mapped: `become` will say so
    if console:
        os.close(os.open("/dev/console", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY, 0o600))
        context.syscalls.mount(path, "/dev/console", "", n.MS_BIND)
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(slave, number, inheritable=True)
    _send(channel, {"type": "terminal"}, [master])
    os.close(master)
    os.close(slave)


def _init(channel: socket.socket, stdio: tuple[int, int, int], spec: ProcessSpec, context: ChildContext) -> None:
    """docker's --init: stay as process 1, pass signals on, reap whatever is orphaned, leave with the command's status.
    Returns in the child that is to execute the command; the first process never returns."""
    forwarded = set(signal.valid_signals()) - {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP}
    signal.pthread_sigmask(signal.SIG_BLOCK, forwarded | {signal.SIGCHLD})
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        context.syscalls.prctl(n.PR_SET_PDEATHSIG, signal.SIGKILL)
        return
    command = os.pidfd_open(pid)
    _send(channel, {"type": "command"}, [command])
    channel.close()
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    context.syscalls.close_range(3, 0xFFFFFFFF)
    while True:
        received = signal.sigwait(forwarded | {signal.SIGCHLD})
        if received != signal.SIGCHLD:
            try:
                os.kill(pid, received)
            except ProcessLookupError:
                pass
            continue
        while True:
            try:
                ended, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                os._exit(CHILD_FAILED)
            if ended == pid:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)
            if ended == 0:
                break


def _send(channel: socket.socket, message: dict[str, object], descriptors: list[int] | None = None) -> None:
    wire.send(channel, json.dumps(message).encode(), descriptors or [])


def _fail(channel: socket.socket, error: BaseException) -> None:
    """Report and leave, whatever happened."""
    try:
        failure: dict[str, object] = {"type": "failed", "step": "start", "errno": 0, "exit_code": 125}
        if isinstance(error, perform.StepFailed):
            failure |= {"step": error.step, "errno": error.errno, "message": error.message}
        elif isinstance(error, OSError):
            failure |= {"errno": error.errno, "message": str(error)}
        else:
            failure["message"] = f"{type(error).__name__}: {error}"
        if isinstance(error, process.ExecFailed):
            failure["exit_code"] = error.exit_code
        _send(channel, failure)
    except BaseException as second:
        sys.stderr.write(f"launcher child: {error!r}, then {second!r}\n")
    os._exit(CHILD_FAILED)
