"""The fork server for command lines: everything is imported, a command costs a fork instead of an interpreter.

Owns the server's end; bin/rootless is the other one and knows this protocol by heart, as it can afford no imports.
Called by: the launcher's bootstrap, which forks us while it is still in the host's namespaces.

    client -> server   four bytes of length, then fields separated by NUL: "1" (the protocol), sys.executable, the
                       number of words, the words, the environment; with descriptors 0, 1, 2 and the directory
    server -> client   lines: P<pid> it runs; T<signal> it was stopped; X<code> it is over; S<signal> it was killed;
                       N not here: run it yourself

What runs in the fork must be indistinguishable from what would have run in the client's process. What we can take over
is taken over: streams, directory, environment, umask, limits, priority, CPUs, ignored signals. What cannot be is
compared, and the answer is N where it differs: namespaces, root, ids, capabilities, seccomp, installation. The client
keeps away what depends on its session: reading a terminal, /dev/fd/…. What remains different: the parent, the
session and the cgroup (those of the launcher), and that SIGSTOP sent to the client does not stop the command.

Two deaths are bound together: the client ends as the command ends (a line says how), and where the client is killed
by SIGKILL, the kernel kills the command: the connection is in asynchronous mode with SIGKILL as its signal
(fcntl(2), F_SETSIG), as nothing but its end can happen to it after the request."""

from __future__ import annotations

import array
import gc
import os
import select
import signal
import socket
import struct
import sys
from typing import NoReturn

PROTOCOL = b"1"
MAX_REQUEST_BYTES = 8 << 20
START_MILLISECONDS = 250  # without a client before we import: the command that started us all runs first
REFILL_MILLISECONDS = 50  # a new spare beside a command that takes long


def serve_warm(listener: socket.socket) -> None:
    """Run a command line for each connection, until we are killed: the launcher's end is ours (PDEATHSIG)."""
    from rootless.cli.warm_process import Installation, preload

    poller = select.poll()
    poller.register(listener, select.POLLIN)
    poller.poll(START_MILLISECONDS)
    preload()
    server = _Server(listener, Installation.here())
    gc.freeze()
    server.serve()


class _Server:
    """The parent of command lines. It never reads from a client: a slow one keeps nobody waiting.

    A spare child waits in accept(2), forked before it is needed and rehearsed: the fork (1 ms) and the pages that a
    first command copies (2 ms) are paid while nobody waits. It tells us over `mailbox` what it has taken. A new spare
    is forked when the command is over, so as not to compete with it; at once where another client is waiting."""

    def __init__(self, listener: socket.socket, installation: object) -> None:
        self.listener = listener
        self.installation = installation
        self.pid = os.getpid()
        self.children: dict[int, socket.socket] = {}
        self.spare = 0
        listener.setblocking(False)
        self.wake_read, self.wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.mailbox, self.mailbox_of_spare = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.mailbox.setblocking(False)

    def serve(self) -> NoReturn:
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._fork_spare(rehearsed=True)
        while True:
            poller = select.poll()
            poller.register(self.wake_read, select.POLLIN)
            poller.register(self.mailbox, select.POLLIN)
            if not self.spare:
                poller.register(self.listener, select.POLLIN)
            ready = dict(poller.poll(None if self.spare else REFILL_MILLISECONDS))
            self._read_mailbox()
            ended = self.wake_read in ready and self._reap()
            if self.spare:
                continue
            if self.listener.fileno() in ready:
                self._fork_spare(rehearsed=False)
            elif ended or not ready:
                self._fork_spare(rehearsed=True)

    def _fork_spare(self, rehearsed: bool) -> None:
        try:
            pid = os.fork()
        except OSError:
            return  # too many processes; clients find nobody and do it themselves, or wait for the next try
        if pid == 0:
            try:
                self._be_spare(rehearsed)
            finally:
                os._exit(1)
        self.spare = pid

    def _be_spare(self, rehearsed: bool) -> NoReturn:
        """In the child: wait for a client, then be its command line."""
        from rootless.cli.warm_process import die_with_parent, rehearse

        signal.set_wakeup_fd(-1)
        die_with_parent(signal.SIGKILL)
        if os.getppid() != self.pid:
            os._exit(0)
        if rehearsed:
            rehearse()
        poller = select.poll()
        poller.register(self.listener, select.POLLIN)
        while True:
            poller.poll()
            try:
                connection, _ = self.listener.accept()
                break
            except BlockingIOError:
                continue
        socket.send_fds(self.mailbox_of_spare, [b"%d" % os.getpid()], [connection.fileno()])
        die_with_parent(0)
        for kept in (self.listener, self.mailbox, self.mailbox_of_spare, *self.children.values()):
            kept.close()
        os.close(self.wake_read)
        os.close(self.wake_write)
        _child(connection, self.installation)

    def _read_mailbox(self) -> None:
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self.mailbox, 32, 1)
            except BlockingIOError:
                return
            self.children[int(data)] = socket.socket(fileno=descriptors[0])
            if int(data) == self.spare:
                self.spare = 0

    def _reap(self) -> bool:
        """Tell clients of children that ended without a word or were stopped. Whether a command is over."""
        os.read(self.wake_read, 4096)
        ended = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            self._read_mailbox()
            if pid == self.spare:  # killed by somebody: the next client, or the next time-out, brings a new one
                self.spare = 0
            connection = self.children.get(pid)
            if connection is None:
                continue
            if os.WIFSTOPPED(status):
                _tell(connection, b"T%d\n" % os.WSTOPSIG(status))
                continue
            if os.WIFSIGNALED(status):
                _tell(connection, b"S%d\n" % os.WTERMSIG(status))
            else:
                _tell(connection, b"X%d\n" % os.WEXITSTATUS(status))
            connection.close()
            del self.children[pid]
            ended = True


def _tell(connection: socket.socket, line: bytes) -> None:
    try:
        connection.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        return  # it has read its answer and gone, or was killed


def _child(connection: socket.socket, installation: object) -> NoReturn:
    """Become the command line that the client asks for. Never returns."""
    from rootless.cli.warm_process import Installation, Refused, become

    assert isinstance(installation, Installation)
    exit_code = 1
    try:
        connection.setblocking(True)
        connection.set_inheritable(False)
        peer_pid, peer_uid, _ = struct.unpack(
            "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        )
        if peer_uid != os.getuid():
            os._exit(0)
        fields, descriptors = _receive(connection)
        try:
            words = become(fields, descriptors, peer_pid, installation)
        except (Refused, OSError, ValueError, LookupError):
            _tell(connection, b"N\n")
            os._exit(0)
        _die_with_the_client(connection)
        _tell(connection, b"P%d\n" % os.getpid())
        exit_code = _run(words)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        _tell(connection, b"X%d\n" % (exit_code & 0xFF))
        os._exit(exit_code & 0xFF)


def _receive(connection: socket.socket) -> tuple[list[bytes], list[int]]:
    """The request's fields and descriptors. Raises OSError, ValueError."""
    descriptors = array.array("i")
    data, ancillary, _, _ = connection.recvmsg(
        1 << 18, socket.CMSG_SPACE(4 * descriptors.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content)
    length = int.from_bytes(data[:4], "big")
    if not 0 < length <= MAX_REQUEST_BYTES:
        raise ValueError("a request of an impossible size")
    parts = [data[4:]]
    missing = length - len(parts[0])
    while missing > 0:
        more = connection.recv(min(missing, 1 << 18))
        if not more:
            raise ValueError("half a request")
        parts.append(more)
        missing -= len(more)
    return b"".join(parts).split(b"\0"), list(descriptors)


def _die_with_the_client(connection: socket.socket) -> None:
    import fcntl

    fd = connection.fileno()
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, 10, signal.SIGKILL)  # F_SETSIG of <linux/fcntl.h>; Python has no name for it
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    if poller.poll(0):  # it had gone before
        os._exit(0)


def _run(words: list[str]) -> int:
    from rootless.cli import main

    try:
        code: object = main(words)
    except SystemExit as leave:
        code = leave.code
        if isinstance(code, str):
            sys.stderr.write(code + "\n")
            code = 1
    try:
        sys.stdout.flush()
    finally:
        sys.stderr.flush()
    return code if isinstance(code, int) else 0
