"""Starts the launcher: `python -m rootless.launcher`, by the engine (`launcher.spawn`), detached.

Order matters. Everything is imported first, once, for all the forks to come. The fork server for command lines leaves
while we are still in the host's namespaces. Then a child waits outside to write the id maps, we enter U, and only then
are the sockets there: a socket that can be connected to is a launcher that works."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import socket
import sys
from pathlib import Path

import slirp
from rootless import __version__
from rootless import settings as settings_module
from rootless.launcher import idmap as idmap_module
from rootless.launcher.child import ChildContext
from rootless.launcher.idmap import IdMap
from rootless.launcher.server import Launcher
from rootless.model.errors import RootlessError
from rootless.runtime.spec import GuestNetwork
from rootless.settings import Settings
from rootless.store import process_lock
from rootless.syscalls import Kernel, Syscalls
from rootless.syscalls import numbers as n


def main() -> int:
    """Exit code 1 and a message on stderr (the launcher's log) where it cannot start."""
    try:
        settings = settings_module.load(os.environ)
        settings_module.ensure_runtime_dir(settings)
        lock = process_lock.take(settings.runtime_dir / "launcher.lock", "")
        if lock is None:
            raise RootlessError(f"another launcher runs already for {settings.runtime_dir}")
        kernel = Kernel()
        os.chdir("/")
        os.umask(0o022)
        _warm_command_line(settings)
        idmap = enter_user_namespace(kernel, idmap_module.probe())
        mounts = _prepare_mounts(kernel, settings)
        listener = _listen(settings.launcher_socket)
    except (RootlessError, OSError) as error:
        sys.stderr.write(f"rootless launcher: {error}\n")
        return 1
    kernel.prctl(n.PR_SET_CHILD_SUBREAPER, 1)
    context = ChildContext(
        syscalls=kernel,
        root_mount=str(mounts / "root"),
        last_capability=int(Path("/proc/sys/kernel/cap_last_cap").read_text()),
        id_count=idmap.count,
        open_tap=_open_tap,
        loopback_up=lambda: _prepare_network(idmap.count),
        set_default_routes=slirp.set_default_routes,
        remove_veth=slirp.remove_veth,
        notify_connects=slirp.notify_connects,
    )
    roots = settings.state_root, settings.data_root
    launcher = Launcher(listener, context, idmap, mounts, roots, __version__)
    gc.freeze()  # and no collection before it: imports leave hardly any garbage, and looking for it costs 13 ms
    try:
        launcher.serve()
    finally:
        settings.launcher_socket.unlink(missing_ok=True)
        os.close(lock)
    return 0


def enter_user_namespace(kernel: Syscalls, idmap: IdMap) -> IdMap:
    """Become root of a new user namespace, with a mount namespace. Returns the map in force. Raises RootlessError.

    The maps are written by a child that stayed outside: inside, one may only map oneself."""
    parent = os.getpid()
    go_read, go_write = os.pipe2(os.O_CLOEXEC)
    done_read, done_write = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            os.close(go_write)
            answer = b"launcher has died"
            if os.read(go_read, 1):
                try:
                    answer = b"ok" + idmap_module.write(parent, idmap).reason.encode()
                except RootlessError as error:
                    answer = error.message.encode()
            os.write(done_write, answer)
        finally:
            os._exit(0)
    os.close(go_read)
    os.close(done_write)
    try:
        kernel.unshare(n.CLONE_NEWUSER | n.CLONE_NEWNS)
    except OSError as error:
        os.close(go_write)
        hint = idmap_module.USER_NAMESPACE_HINT
        raise RootlessError(f"cannot make a user namespace: {error.strerror}. {hint}") from error
    os.write(go_write, b"x")
    os.close(go_write)
    verdict = os.read(done_read, 4096).decode()
    os.close(done_read)
    os.waitpid(child, 0)
    if not verdict.startswith("ok"):
        raise RootlessError(verdict or "the id maps were not written")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    if reason := verdict[2:]:
        return IdMap(((0, idmap.uids[0][1], 1),), ((0, idmap.gids[0][1], 1),), reason)
    return idmap


def _prepare_mounts(kernel: Syscalls, settings: Settings) -> Path:
    """An empty tmpfs of ours over runtime_dir/mounts: mount points need no place on any disk, and go when we go."""
    kernel.mount("", "/", "", n.MS_SLAVE | n.MS_REC)  # the host's new mounts come in, ours do not get out
    mounts = settings.runtime_dir / "mounts"
    mounts.mkdir(mode=0o700, exist_ok=True)
    kernel.mount("rootless", str(mounts), "tmpfs", n.MS_NOSUID | n.MS_NODEV, "mode=0755,size=1m")
    (mounts / "root").mkdir()
    return mounts


def _listen(path: Path) -> socket.socket:
    """A SEQPACKET listener, put in place by a rename: whoever sees it can connect. Raises OSError."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(temporary))
    temporary.chmod(0o600)
    listener.listen(16)
    temporary.rename(path)
    return listener


def _prepare_network(id_count: int) -> None:
    """In a new network namespace: loopback, and low ports and pings for everybody, as docker has it."""
    slirp.loopback_up()
    _sysctl("ipv4/ip_unprivileged_port_start", "0")
    _sysctl("ipv4/ping_group_range", f"0 {id_count - 1}")


def _sysctl(name: str, text: str) -> None:
    """Of the network namespace we are in. A kernel that does not have it is tolerated."""
    try:
        with open(f"/proc/sys/net/{name}", "w") as file:
            file.write(text)
    except OSError:
        return


def _open_tap(network: GuestNetwork) -> int:
    fd = slirp.open_device(network.interface, network.mtu)
    if network.address6:  # a router's advertisement would make every network the way out
        _sysctl(f"ipv6/conf/{network.interface}/accept_ra", "0")
    else:
        _sysctl(f"ipv6/conf/{network.interface}/disable_ipv6", "1")
    try:
        slirp.configure_guest(
            network.interface,
            network.mac,
            network.mtu,
            network.address4,
            network.gateway4,
            network.address6,
            network.gateway6,
        )
    except OSError:
        os.close(fd)
        slirp.remove_veth(network.interface)  # a TAP has gone
        raise
    return fd


def _warm_command_line(settings: Settings) -> None:
    """Fork the server for command lines, which stays outside of U (see docs/architecture.md)."""
    try:
        warm = importlib.import_module("rootless.cli.warm")
    except ModuleNotFoundError:
        return
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    temporary = settings.warm_socket.with_name("warm.sock.new")
    temporary.unlink(missing_ok=True)
    listener.bind(str(temporary))
    temporary.chmod(0o600)
    listener.listen(64)
    launcher = os.getpid()
    if os.fork() == 0:
        try:
            ctypes.PyDLL(None).prctl(n.PR_SET_PDEATHSIG, 15)
            if os.getppid() == launcher:  # else it ended before we asked to be told
                warm.serve_warm(listener)
        finally:
            os._exit(0)
    temporary.rename(settings.warm_socket)
    listener.close()


if __name__ == "__main__":
    sys.exit(main())
