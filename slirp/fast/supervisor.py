"""Fast sockets: outgoing TCP connections of a guest become sockets of the host's network namespace, and their data
never passes through the stack. One process per guest, outside its namespaces, started by the launcher: reading a
guest's memory can take as long as the guest likes, and nobody else is to wait for that.

Each connect(2) of a guest waits here. If the stack would let it out, and its socket is an ordinary one (`replay`), a
socket like it is connected in the host's namespace and put in its place; what connect said is the call's answer.
Everything else goes on as it would have: on the stack.

*Letting a call go on is safe.* Between our look and the kernel's, a guest can write another address, and put another
descriptor under the number. With a socket of its own, it gets what its own namespace and the stack's policy give it,
whatever the address. With one of ours, it could disconnect it and connect it anew, past the policy; io_uring and
MSG_FASTOPEN can do that without asking anybody. So a socket of ours is bound to the device that leads to its peer
before a guest gets it, which only CAP_NET_RAW of the host could change: it never reaches the host's loopback.
Connections to addresses of the host's own go by that, and are left on the stack. What is left to such a guest: it can
listen at a free port of the host, and what else the policy forbids leads out of the machine, to nobody. (A packet
filter for the peer alone would be tighter; kernel 6.18 has it on TCP for CAP_NET_ADMIN only.)

The peer's address is the one asked for; the local address (getsockname) is the host's, as the peer sees it.

*Killed*, it is started again by the launcher, which keeps the listeners: calls wait meanwhile, and those that were
taken and not answered are found in memory both share (`slots`). Commands come as in `slirp.run`, without answers:

    {"type": "Watch", "watch": number} + listener
    {"type": "Left"}                    the guest has left the network: all its calls are let go on from now on
    {"type": "Forbid", "subnets"}"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import select
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

from slirp.config import NetworkConfig
from slirp.fast import calls, replay
from slirp.fast.routes import Routes
from slirp.fast.slots import Slots
from slirp.host.outbound import Outbound
from slirp.stack.policy import Policy, Way

CHECK_SECONDS = 1.0  # how soon a connection is given up whose caller was interrupted and does not ask again
_ADDRESS_BYTES: dict[int, int] = {socket.AF_INET: 16, socket.AF_INET6: 24}  # the least: SIN6_LEN_RFC2133
_PR_SET_NO_NEW_PRIVS = 38
_SO_BINDTOIFINDEX = 62  # include/uapi/asm-generic/socket.h, kernel 5.1


@dataclass
class _Watch:
    """A listener: the guest's first process has one, and every exec."""

    number: int
    listener: int


@dataclass
class _Call:
    """A connect(2) that waits. `socket` is the host's, connecting."""

    watch: _Watch
    slot: int
    notification: calls.Notification
    address: bytes
    socket: socket.socket
    replaces: bool = True  # false: the guest has it already


def run_fast_sockets(config: NetworkConfig, control: socket.socket, memory: mmap.mmap) -> None:
    """Serve until the control socket ends. `memory`: FAST_SOCKETS_BYTES of zeros, or what one before this left."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    Supervisor(config, control, memory).run()


class Supervisor:
    """The loop."""

    def __init__(self, config: NetworkConfig, control: socket.socket, memory: mmap.mmap) -> None:
        self._control = control
        self._policy, self._outbound = Policy(config), Outbound(config)
        self._slots, self._routes = Slots(memory), Routes()
        self._epoll = select.epoll()
        self._watches: dict[int, _Watch] = {}  # by listener
        self._calls: dict[int, _Call] = {}  # by the host's socket
        self._asked: dict[tuple[int, int, int, bytes], _Call] = {}  # watch, thread, descriptor, address
        self._on_network = True
        self._leaving = False

    def run(self) -> None:
        self._epoll.register(self._control.fileno(), select.EPOLLIN)
        next_check = 0.0
        while not self._leaving:
            for fd, events in self._epoll.poll(CHECK_SECONDS if self._calls else None):
                if fd == self._control.fileno():
                    self._command()
                elif (watch := self._watches.get(fd)) is not None:
                    self._notified(watch, events)
                elif (call := self._calls.get(fd)) is not None:
                    self._connected(call)
            if self._calls and (now := time.monotonic()) >= next_check:
                next_check = now + CHECK_SECONDS
                for call in list(self._calls.values()):
                    if not calls.valid(call.watch.listener, call.notification.id):
                        self._drop(call)

    # ------------------------------------------------------------------------------------------------ commands
    def _command(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._control, 1 << 18, 16, socket.MSG_CMSG_CLOEXEC)
        if not data:
            self._leaving = True
            return
        command = json.loads(data)
        match command["type"]:
            case "Watch":
                self._watch(_Watch(command["watch"], descriptors[0]))
            case "Left":
                self._on_network = False
            case "Forbid":
                self._policy.forbid(command["subnets"])

    def _watch(self, watch: _Watch) -> None:
        calls.wake_at_once(watch.listener)
        self._watches[watch.listener] = watch
        self._epoll.register(watch.listener, select.EPOLLIN)
        for slot, notification in list(self._slots.left_behind(watch.number)):
            self._decide(watch, slot, notification, left_behind=True)

    def _ended(self, watch: _Watch) -> None:
        """None of its processes is left."""
        self._epoll.unregister(watch.listener)
        del self._watches[watch.listener]
        for call in [call for call in self._calls.values() if call.watch is watch]:
            self._drop(call)
        os.close(watch.listener)

    # ------------------------------------------------------------------------------------------------ calls
    def _notified(self, watch: _Watch, events: int) -> None:
        if not events & select.EPOLLIN:
            self._ended(watch)
            return
        try:
            taken = self._slots.receive(watch.listener, watch.number)
        except IndexError:  # thousands wait: this one need not
            memory = (ctypes.c_char * calls.NOTIFICATION_BYTES)()
            if calls.receive(watch.listener, ctypes.addressof(memory)):
                calls.let_go_on(watch.listener, calls.parse(bytes(memory)).id)
            return
        if taken is not None:
            self._decide(watch, *taken)

    def _decide(self, watch: _Watch, slot: int, notification: calls.Notification, left_behind: bool = False) -> None:
        """Answer a call, or keep it until there is an answer. Nothing a guest does may end this process."""
        try:
            result = self._result(watch, slot, notification)
        except Exception as error:
            if not isinstance(error, OSError):
                sys.stderr.write(f"fast sockets: {error!r}\n")
            result = _ON_THE_STACK
        if result == _LATER:
            return
        if left_behind:  # the socket may be in place already
            result = _FIRST_ANSWERS.get(result, result)
        if result == _ON_THE_STACK:
            calls.let_go_on(watch.listener, notification.id)
        else:
            calls.answer(watch.listener, notification.id, result)
        self._slots.release(slot)

    def _result(self, watch: _Watch, slot: int, notification: calls.Notification) -> int:
        """An errno, 0, _ON_THE_STACK or _LATER. Raises OSError: on the stack."""
        if notification.length > calls.MAX_ADDRESS_BYTES:
            return _ON_THE_STACK
        text = calls.read_memory(notification.thread, notification.address, notification.length)
        family = int.from_bytes(text[:2], sys.byteorder)
        if family not in _ADDRESS_BYTES or len(text) < _ADDRESS_BYTES[family]:
            return _ON_THE_STACK
        destination = text[4:8] if family == socket.AF_INET else text[8:24]
        outside = self._on_network and self._policy.way(destination) is Way.OUTSIDE
        fd = calls.take_descriptor(notification.thread, notification.fd)
        try:
            guests = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            raise
        with guests:
            if guests.family != family or not calls.valid(watch.listener, notification.id):
                return _ON_THE_STACK
            if replay.is_of_host(guests):
                return self._again(_Call(watch, slot, notification, text, guests), outside)
            if not outside:
                return _ON_THE_STACK
            key = watch.number, notification.thread, notification.fd, text
            if (call := self._asked.get(key)) is not None:  # a signal has interrupted it, and it is asked again
                self._slots.release(call.slot)
                call.slot, call.notification = slot, notification
                return _LATER
            if not replay.is_ordinary(guests, notification.thread, notification.fd):
                return _ON_THE_STACK
            return self._connect(_Call(watch, slot, notification, text, guests))

    def _again(self, call: _Call, outside: bool) -> int:
        """connect(2) on a socket that we have replaced before: mostly to ask what has become of the connection."""
        guests = call.socket
        state = replay.state(guests)
        if state == replay.SYN_SENT:
            if _blocks(guests):
                own = socket.socket(fileno=os.dup(guests.fileno()))
                return self._wait(_Call(call.watch, call.slot, call.notification, call.address, own, False))
            return errno.EALREADY
        if state != replay.TCP_CLOSE:  # established, or ending: no connection can be made of it, so any address will do
            return guests.connect_ex(guests.getpeername()) if not _is_shut(guests) else errno.EISCONN
        if failure := guests.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return failure
        return self._connect(call) if outside else errno.ENETUNREACH

    def _connect(self, call: _Call) -> int:
        """A socket like the guest's, connecting: at once in its place if the guest does not want to wait."""
        guests, address = call.socket, call.address
        port, target = int.from_bytes(address[2:4], "big"), tuple[Any, ...]()
        if guests.family == socket.AF_INET:
            packed = address[4:8]
            target = socket.inet_ntoa(packed), port
        else:
            packed = address[8:24]
            flow = int.from_bytes(address[4:8], "big") & 0xFFFFF
            target = socket.inet_ntop(socket.AF_INET6, packed), port, flow, 0
        device = self._routes.device_to(packed)
        if not device:
            return errno.ENETUNREACH if replay.is_of_host(guests) else _ON_THE_STACK
        made = replay.like(guests)
        try:
            made.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, device)
            self._outbound.bind(made, target[0])
            number = made.connect_ex(target)
            if number == errno.EINPROGRESS and _blocks(guests):
                own = socket.socket(fileno=made.detach())
                return self._wait(_Call(call.watch, call.slot, call.notification, address, own))
            if number in (0, errno.EINPROGRESS):
                _put_in_place(call, made)
            return number
        finally:
            made.close()

    def _wait(self, call: _Call) -> int:
        notification = call.notification
        self._calls[call.socket.fileno()] = call
        self._asked[call.watch.number, notification.thread, notification.fd, call.address] = call
        self._epoll.register(call.socket.fileno(), select.EPOLLOUT)
        return _LATER

    def _connected(self, call: _Call) -> None:
        """Or refused."""
        try:
            number = call.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not number and replay.state(call.socket) == replay.SYN_SENT:
                return
            if not number:
                call.socket.connect_ex(call.socket.getpeername())  # the socket's own state follows the connection's
                if call.replaces:
                    _put_in_place(call, call.socket)
        except OSError:  # it has ended already, or the guest is no more
            number = errno.ECONNRESET
        calls.answer(call.watch.listener, call.notification.id, number)
        self._drop(call)

    def _drop(self, call: _Call) -> None:
        """It has been answered, or nobody waits."""
        notification = call.notification
        self._epoll.unregister(call.socket.fileno())
        del self._calls[call.socket.fileno()]
        self._asked.pop((call.watch.number, notification.thread, notification.fd, call.address), None)
        call.socket.close()
        self._slots.release(call.slot)


_ON_THE_STACK, _LATER = -1, -2
_FIRST_ANSWERS = {errno.EISCONN: 0, errno.EALREADY: errno.EINPROGRESS}


def _blocks(sock: socket.socket) -> bool:
    return not fcntl.fcntl(sock, fcntl.F_GETFL) & os.O_NONBLOCK


def _is_shut(sock: socket.socket) -> bool:
    """getpeername(2) has nothing to say any more."""
    try:
        sock.getpeername()
    except OSError:
        return True
    return False


def _put_in_place(call: _Call, made: socket.socket) -> None:
    """The guest's descriptor becomes this socket, with the flags it has now. Raises OSError."""
    notification = call.notification
    thread, fd = notification.thread, notification.fd
    close_on_exec = replay.closes_on_exec(thread, fd)
    before = calls.take_descriptor(thread, fd)
    try:
        fcntl.fcntl(made, fcntl.F_SETFL, fcntl.fcntl(before, fcntl.F_GETFL))
    finally:
        os.close(before)
    calls.replace(call.watch.listener, notification.id, made.fileno(), fd, close_on_exec=close_on_exec)
