from __future__ import annotations

import signal
from pathlib import Path

import pytest

from rootless.engine import etc_files
from rootless.engine.record import Record
from rootless.engine.specification import container_spec, environment, exec_spec, signal_number
from rootless.model.errors import InvalidParameter
from tests.engine.test_creation import record


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", signal.SIGTERM),
        ("SIGTERM", signal.SIGTERM),
        ("sigint", signal.SIGINT),
        ("9", 9),
        ("RTMIN+3", signal.SIGRTMIN + 3),
        ("SIGRTMAX-1", signal.SIGRTMAX - 1),
    ],
)
def test_signals(text: str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["NOPE", "0", "65", "", "RTMIN+x", "RTMAX3", "_DFL", "-9"])
def test_signals_that_are_not(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid signal"):
        signal_number(text)


def test_the_environment_has_what_docker_adds() -> None:
    assert environment(["PATH=/x"], True, "box") == ("HOSTNAME=box", "TERM=xterm", "PATH=/x")
    assert environment([], False, "")[0].startswith("PATH=/usr/local/sbin")


def made(**host: object) -> Record:
    value = record({"HostConfig": host, "Tty": True, "User": "www"})
    assert isinstance(value, Record)
    return value


def test_the_specification_of_a_container() -> None:
    spec = container_spec(
        made(ReadonlyRootfs=True, Init=True, PidMode="host", CapDrop=["ALL"], SecurityOpt=["no-new-privileges"]),
        "/lower",
        Path("/c"),
        [],
    )
    assert (spec.root.lower, spec.root.upper, spec.root.read_only) == ("/lower", "/c/upper", True)
    assert (spec.init, spec.pid, spec.network) == (True, "host", "private")
    assert spec.process.capabilities == ()
    assert spec.process.no_new_privileges
    assert spec.process.terminal
    assert (spec.process.user, spec.process.cwd) == ("www", "/w")
    assert [mount.target for mount in spec.mounts] == ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]
    assert "/proc/kcore" in spec.masked_paths
    assert container_spec(made(Privileged=True), "/lower", Path("/c"), []).masked_paths == ()


def test_an_exec_takes_the_containers_environment_user_and_directory() -> None:
    process = exec_spec(made(), {"Cmd": ["id"], "Env": ["A=2"]})
    assert process.environment[-2:] == ("PATH=/bin", "A=2")
    assert (process.user, process.cwd) == ("www", "/w")
    with pytest.raises(InvalidParameter, match="No exec command"):
        exec_spec(made(), {"Cmd": []})


def test_hosts_and_resolv_conf() -> None:
    text = etc_files.hosts("box", "", ["172.17.0.2"], ["db:10.0.0.1", "up:host-gateway"], "172.17.0.1")
    assert text.splitlines()[-3:] == ["10.0.0.1\tdb", "172.17.0.1\tup", "172.17.0.2\tbox"]
    host = "# comment\nnameserver 127.0.0.53\nsearch corp\noptions edns0\n"
    assert etc_files.resolv_conf(host, "172.17.0.1", (), (), ()).splitlines() == [
        "search corp",
        "options edns0",
        "nameserver 172.17.0.1",
    ]
    assert etc_files.resolv_conf(host, "172.17.0.1", ["9.9.9.9"], ["."], ["ndots:1"]).splitlines() == [
        "nameserver 9.9.9.9",
        "options ndots:1",
    ]
