"""Fast sockets with real kernels: programs in a guest connect, and a supervisor outside answers."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import socket
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.slirp.addresses import FAR, FAR6, GATEWAY, NEAR, NEAR6, OUTSIDE
from tests.slirp.lab import FastSockets, Guest, Lab, Place

pytestmark = pytest.mark.kernel
PRELUDE = """
import errno, fcntl, json, os, select, signal, socket, struct, sys, threading, time
def show(**found): os.write(1, json.dumps(found).encode() + b"\\n")  # print() of two threads mixes their lines
def local(sock): return sock.getsockname()[0]
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Guest:
    return lab.guest()


@pytest.fixture(scope="module")
def far(lab: Lab) -> Iterator[Place]:
    made = lab.far()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def fast(lab: Lab, guest: Guest) -> Iterator[FastSockets]:
    made = FastSockets(lab, guest)
    try:
        yield made
    finally:
        made.close()


def run(fast: FastSockets, code: str, **values: object) -> list[dict[str, Any]]:
    """What the program shows."""
    given = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    with fast.program(PRELUDE + given + textwrap.dedent(code)) as output:
        text = output.read().decode()
    try:
        return [json.loads(line) for line in text.splitlines()]
    except ValueError:
        pytest.fail(text)


@pytest.fixture
def server(far: Place) -> Iterator[tuple[str, int]]:
    """Answers every connection with what it says, once."""
    listener = far.listen(FAR)
    listener.settimeout(None)

    def serve() -> None:
        try:
            while True:
                sock, _ = listener.accept()
                threading.Thread(target=answer, args=(sock,)).start()
        except OSError:
            return

    def answer(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.settimeout(10)
            while data := sock.recv(65536):
                sock.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()


ECHO = "s.sendall(b'hello'); assert s.recv(5) == b'hello'\n"


def test_a_blocking_connect_gets_a_socket_of_the_host(fast: FastSockets, server: tuple[str, int]) -> None:
    code = f"s = socket.create_connection(server)\n{ECHO}show(local=local(s), peer=s.getpeername())"
    assert run(fast, code, server=server) == [{"local": NEAR, "peer": list(server)}]


def test_ipv6(fast: FastSockets, far: Place) -> None:
    with far.listen(FAR6) as listener:
        code = "s = socket.create_connection(server)\nshow(local=local(s), peer=s.getpeername()[:2])"
        where = listener.getsockname()[:2]
        assert run(fast, code, server=where) == [{"local": NEAR6, "peer": list(where)}]


def test_what_a_network_has_no_addresses_for_is_not_reached(lab: Lab, guest: Guest, far: Place) -> None:
    fast = FastSockets(lab, guest, subnet6="", gateway6="")
    try:
        with far.listen(FAR6) as listener:
            code = "show(local=local(socket.create_connection(server)))"
            assert run(fast, code, server=listener.getsockname()[:2]) == [{"local": guest.address6}]  # by the stack
    finally:
        fast.close()


def test_options_and_flags_are_kept(fast: FastSockets, server: tuple[str, int]) -> None:
    code = """
    wanted = [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
        (6, socket.TCP_NODELAY, 1), (6, socket.TCP_KEEPIDLE, 33), (6, socket.TCP_KEEPINTVL, 7),
        (6, socket.TCP_KEEPCNT, 3), (6, 18, 4321), (0, socket.IP_TOS, 16), (0, socket.IP_TTL, 99),
    ]
    s = socket.socket()
    before = s.fileno()
    for level, option, value in wanted: s.setsockopt(level, option, value)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50000)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 5))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('qq', 4, 0))
    s.connect(server)
    assert [s.getsockopt(level, option) for level, option, _ in wanted] == [value for _, _, value in wanted]
    assert s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 100000
    assert s.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == struct.pack('ii', 1, 5)
    assert s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16) == struct.pack('qq', 4, 0)
    assert s.fileno() == before and os.get_blocking(before) and not os.get_inheritable(before)
    t = socket.socket()
    os.set_inheritable(t.fileno(), True)
    t.connect(server)
    show(local=[local(s), local(t)], inherited=os.get_inheritable(t.fileno()))
    """
    assert run(fast, code, server=server) == [{"local": [NEAR, NEAR], "inherited": True}]


def test_not_blocking_with_epoll_added_afterwards(fast: FastSockets, server: tuple[str, int]) -> None:
    code = f"""
s = socket.socket(); s.setblocking(False)
first = s.connect_ex(server)
e = select.epoll(); e.register(s, select.EPOLLOUT)
assert e.poll(10)
error = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
again, third = s.connect_ex(server), s.connect_ex(server)
assert not os.get_blocking(s.fileno()); s.setblocking(True)
{ECHO}first, third = first in (0, errno.EINPROGRESS), third == errno.EISCONN
show(first=first, error=error, again=again, third=third, local=local(s))
"""
    expected = {"first": True, "error": 0, "again": 0, "third": True, "local": NEAR}
    assert run(fast, code, server=server) == [expected]


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("e = select.epoll(); e.register(s, select.EPOLLOUT | select.EPOLLET)", id="epoll"),
        pytest.param(
            "e = select.epoll(); d = s.dup(); e.register(d, select.EPOLLOUT); d.close()", id="epoll-of-another"
        ),
        pytest.param("e = s.dup()", id="duplicate"),
        pytest.param("s.bind(('10.77.0.2', 0))", id="bound"),
        pytest.param("s.setsockopt(socket.SOL_SOCKET, 25, b'tap0')", id="device"),
        pytest.param("s.setsockopt(6, 30, 1)", id="fast-open"),
        pytest.param("s.setsockopt(1, 26, struct.pack('HP', 1, id(p) + 32))", id="filter"),
    ],
)
def test_who_others_know_and_what_is_unusual_stays_on_the_stack(
    fast: FastSockets, server: tuple[str, int], before: str
) -> None:
    code = f"""
p = struct.pack('HBBI', 6, 0, 0, 0xffffffff)
s = socket.socket(); s.setblocking(False)
{before}
s.connect_ex(server)
if isinstance(e := globals().get('e'), select.epoll):
    while not any(events & select.EPOLLOUT for _, events in e.poll(10)): pass
else:
    select.select([], [s], [], 10)
s.setblocking(True)
{ECHO}show(local=local(s))
"""
    assert run(fast, code, server=server) == [{"local": "10.77.0.2"}]


def test_refused_and_unreachable(fast: FastSockets, far: Place) -> None:
    with far.listen(FAR) as taken:
        closed = taken.getsockname()
    code = """
    s = socket.socket()
    blocking = s.connect_ex(server)
    t = socket.socket(); t.setblocking(False)
    t.connect_ex(server)
    select.select([], [t], [], 10)
    later = t.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    show(blocking=blocking, later=later, on=socket.socket().connect_ex(other))
    """
    (found,) = run(fast, code, server=closed, other=("198.51.100.1", 80))
    refused, unreachable = 111, 101  # the host has no route there, and says so at once
    assert found == {"blocking": refused, "later": refused, "on": unreachable}


def test_connections_that_wait_do_not_keep_others_waiting(
    fast: FastSockets, far: Place, server: tuple[str, int]
) -> None:
    """A listener whose queue is full answers no SYN."""
    full = far.socket()
    full.bind((FAR, 0))
    full.listen(0)
    fillers = [far.socket() for _ in range(3)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
    code = f"""
done = threading.Event()
def wait():
    s = socket.socket()
    s.connect(full)
    done.set()
    show(waited=local(s))
def handler(*_): pass
thread = threading.Thread(target=wait); thread.start()
for _ in range(20):
    s = socket.create_connection(server)
    {ECHO}
assert not done.is_set()
signal.signal(signal.SIGALRM, handler)
signal.siginterrupt(signal.SIGALRM, True)
signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
libc = __import__('ctypes').CDLL(None, use_errno=True)
t = socket.socket()
host, port = full
address = struct.pack('=H', 2) + struct.pack('!H', port) + socket.inet_aton(host) + bytes(8)
interrupted = libc.connect(t.fileno(), address, 16), __import__('ctypes').get_errno()
signal.setitimer(signal.ITIMER_REAL, 0)
show(local=local(s), interrupted=interrupted)
thread.join()
"""
    given = "".join(f"{name} = {value!r}\n" for name, value in {"server": server, "full": full.getsockname()}.items())
    with fast.program(PRELUDE + given + code) as output:
        assert json.loads(output.readline()) == {"local": NEAR, "interrupted": [-1, 4]}
        full.listen(64)  # room: the SYN is sent again after a second
        accepted = [full.accept()[0] for _ in range(4)]
        assert json.loads(output.readline()) == {"waited": NEAR}
    for sock in [*fillers, *accepted, full]:
        sock.close()


def test_threads_and_children(fast: FastSockets, server: tuple[str, int]) -> None:
    code = f"""
found = []
def one():
    for _ in range(25):
        s = socket.create_connection(server)
        {ECHO}        found.append(local(s)); s.close()
threads = [threading.Thread(target=one) for _ in range(8)]
for t in threads: t.start()
for t in threads: t.join()
if os.fork() == 0:
    s = socket.create_connection(server)
    found.append(local(s))
    show(count=len(found), all=sorted(set(found)))
else: os.wait()
"""
    assert run(fast, code.replace("ECHO", ECHO), server=server) == [{"count": 201, "all": [NEAR]}]


def test_an_address_of_the_hosts_own_stays_on_the_stack(fast: FastSockets, lab: Lab) -> None:
    with lab.host.listen(OUTSIDE) as listener:
        code = "s = socket.create_connection(server)\nshow(local=local(s))"
        assert run(fast, code, server=listener.getsockname()) == [{"local": "10.77.0.2"}]


@pytest.mark.parametrize("target", ["127.0.0.1", GATEWAY, "::ffff:127.0.0.1", "::1"])
def test_the_hosts_loopback_stays_closed(fast: FastSockets, lab: Lab, target: str) -> None:
    with lab.host.listen("::1" if target == "::1" else "127.0.0.1") as secret:
        port = secret.getsockname()[1]
        code = """
        s = socket.socket(socket.AF_INET6 if ':' in target else socket.AF_INET)
        s.settimeout(5)
        show(failed=s.connect_ex((target, port)) != 0)
        """
        assert run(fast, code, target=target, port=port) == [{"failed": True}]
        assert not select.select([secret], [], [], 0)[0]


def test_a_socket_of_the_host_never_leads_to_loopback(fast: FastSockets, lab: Lab, server: tuple[str, int]) -> None:
    """What a guest can make of one by races and io_uring: here it is disconnected, and connected anew by a process that
    nobody asks."""
    with lab.host.listen("127.0.0.1") as loopback:
        with fast.program(PRELUDE + f"server = {server!r}\n" + _HAND_OVER) as output:
            (fd,) = socket.recv_fds(socket.socket(fileno=os.dup(output.fileno())), 1, 1)[1]
        taken = socket.socket(fileno=fd)
        assert taken.getsockname()[0] == NEAR
        _disconnect(taken)
        taken.settimeout(1)
        assert taken.connect_ex(loopback.getsockname()) != 0
        assert not select.select([loopback], [], [], 0)[0]
        taken.close()


_HAND_OVER = """
s = socket.create_connection(server)
socket.send_fds(socket.socket(fileno=1), [b'x'], [s.fileno()])
"""


def _disconnect(sock: socket.socket) -> None:
    assert ctypes.CDLL(None).connect(sock.fileno(), bytes(16), 16) == 0


def test_killed_while_connections_wait(fast: FastSockets, far: Place, server: tuple[str, int]) -> None:
    full = far.socket()
    full.bind((FAR, 0))
    full.listen(0)
    fillers = [far.socket() for _ in range(3)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
    code = """
def wait():
    s = socket.create_connection(full)
    show(waited=local(s))
threads = [threading.Thread(target=wait) for _ in range(3)]
for t in threads: t.start()
s = socket.create_connection(server)
show(now=local(s))
sys.stdout.flush()
s = socket.create_connection(server)
show(then=local(s))
for t in threads: t.join()
"""
    given = "".join(f"{name} = {value!r}\n" for name, value in {"server": server, "full": full.getsockname()}.items())
    with fast.program(PRELUDE + given + code) as output:
        assert json.loads(output.readline()) == {"now": NEAR}
        fast.kill()
        fast.start_again()
        rest = [json.loads(output.readline())]
        full.listen(64)
        accepted = [full.accept()[0] for _ in range(4)]
        rest += [json.loads(output.readline()) for _ in range(3)]
    assert sorted(rest, key=str) == sorted([{"then": NEAR}, *[{"waited": NEAR}] * 3], key=str)
    for sock in [*fillers, *accepted, full]:
        sock.close()


def test_what_has_left_or_is_forbidden_is_on_the_stack(fast: FastSockets, server: tuple[str, int]) -> None:
    code = "s = socket.create_connection(server)\nshow(local=local(s))"
    fast.control.send(json.dumps({"type": "Forbid", "subnets": [f"{FAR}/32"]}).encode())
    assert run(fast, code, server=server) == [{"local": "10.77.0.2"}]
    fast.control.send(json.dumps({"type": "Forbid", "subnets": []}).encode())
    assert run(fast, code, server=server) == [{"local": NEAR}]
    fast.control.send(b'{"type": "Left"}')
    assert run(fast, code, server=server) == [{"local": "10.77.0.2"}]


def test_rubbish(fast: FastSockets) -> None:
    """Addresses and descriptors that are none get what the kernel has always said."""
    code = """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    s = socket.socket()
    found = []
    for fd, address, length in [
        (s.fileno(), 1, 16), (s.fileno(), bytes(16), 4000), (99, struct.pack('=H', 2) + bytes(14), 16),
        (0, struct.pack('=H', 2) + b'\\0\\x50\\xc0\\0\\2\\1' + bytes(8), 16), (s.fileno(), b'\\2', 1),
    ]:
        pointer = ctypes.c_void_p(address) if isinstance(address, int) else address
        libc.connect(fd, pointer, length)
        found.append(errno.errorcode[ctypes.get_errno()])
    u = socket.socket(socket.AF_UNIX)
    found.append(errno.errorcode[u.connect_ex('/nowhere')])
    d = socket.socket(type=socket.SOCK_DGRAM)
    d.connect(('192.0.2.1', 9))
    show(found=found, local=local(d))
    """
    (found,) = run(fast, code)
    assert found["found"] == ["EFAULT", "EINVAL", "EBADF", "ENOTSOCK", "EINVAL", "ENOENT"]
    assert found["local"] == "10.77.0.2"


def test_no_descriptor_is_left(fast: FastSockets, server: tuple[str, int]) -> None:
    pid = int(Path(f"/proc/self/fdinfo/{fast._pidfd}").read_text().partition("Pid:")[2].split()[0])
    run(fast, "s = socket.create_connection(server)", server=server)
    before = len(os.listdir(f"/proc/{pid}/fd"))
    code = f"for _ in range(50):\n    s = socket.create_connection(server)\n    {ECHO}"
    run(fast, code, server=server)
    for listener in fast._listeners:
        os.close(listener)
    fast._listeners.clear()
    run(fast, "socket.socket().connect_ex(server)", server=server)
    assert len(os.listdir(f"/proc/{pid}/fd")) <= before + 1
