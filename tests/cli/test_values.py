"""What flags' values mean: sizes, durations, moments, ports, mounts, files of variables, detach keys, networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rootless.cli import limits, networks, ports, types
from rootless.cli.commands import network_create
from rootless.cli.detach_keys import DetachMatcher, key_bytes
from rootless.cli.env_files import environment_list, parse_env_file
from rootless.cli.flags import FlagError
from rootless.cli.mounts import mounts, tmpfs, volumes
from rootless.model.errors import InvalidParameter
from rootless.model.moments import query_moment


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512m", 512 << 20), ("1.5g", 3 << 29), ("1KiB", 1024), ("2Kb", 2048), ("64 MB", 64 << 20), ("-1", -1)],
)
def test_sizes(text: str, size: int) -> None:
    assert types.size(text) == size


@pytest.mark.parametrize("text", ["", "x", "1q", "m", "--1", "1..5m"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="invalid size"):
        types.size(text)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("1h30m", 5400 * 10**9), ("1.5s", 1500 * 10**6), ("10ms", 10**7), ("0", 0), ("-2us", -2000), (".5s", 5 * 10**8)],
)
def test_durations(text: str, nanoseconds: int) -> None:
    assert types.duration(text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "complaint"), [("5", "missing unit"), ("x", "invalid"), ("", "invalid"), ("1s2", "invalid")]
)
def test_what_is_no_duration(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        types.duration(text)


def test_cpus() -> None:
    assert types.cpus("1.5") == 1_500_000_000
    for wrong in ("a", "1/0", "0.0000000001"):
        with pytest.raises(ValueError):
            types.cpus(wrong)


def test_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    import time

    time.tzset()
    assert query_moment(None, 0) is None
    assert query_moment("1136073845.5", 0) == "1136073845.5"
    assert query_moment("10m", 1000.0) == "400.000000000"
    assert query_moment("2006-01-02T15:04:05.25Z", 0) == "1136214245.250000000"
    assert query_moment("2006-01-02T15:04:05+01:00", 0) == "1136210645.000000000"
    assert query_moment("2006-01-02", 0) == "1136160000.000000000"
    with pytest.raises(InvalidParameter):
        query_moment("yesterday", 0)


@pytest.mark.parametrize(
    ("given", "bindings"),
    [
        ("8080:80", {"80/tcp": [("", "8080")]}),
        ("80", {"80/tcp": [("", "")]}),
        ("127.0.0.1:8080:80/udp", {"80/udp": [("127.0.0.1", "8080")]}),
        ("127.0.0.1::80", {"80/tcp": [("127.0.0.1", "")]}),
        ("[::1]:8080:80", {"80/tcp": [("::1", "8080")]}),
        ("8000-8001:80-81", {"80/tcp": [("", "8000")], "81/tcp": [("", "8001")]}),
        ("8000-8009:80", {"80/tcp": [("", "8000-8009")]}),
        ("target=80,published=8080", {"80/tcp": [("", "8080")]}),
    ],
)
def test_published_ports(given: str, bindings: dict[str, list[tuple[str, str]]]) -> None:
    found = ports.published((given,))
    assert {port: [(row["HostIp"], row["HostPort"]) for row in rows] for port, rows in found.items()} == bindings


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("70000:80", "invalid hostPort: 70000"),
        ("80:70000", "invalid containerPort: 70000"),
        ("8080:", "no port specified"),
        ("1.2.3:80:80", "invalid IP address: 1.2.3"),
        ("80:80/icmp", "invalid proto: icmp"),
        ("1-3:1-2", "invalid ranges"),
        ("5-1:1", "invalid hostPort"),
    ],
)
def test_bad_ports(given: str, complaint: str) -> None:
    with pytest.raises(InvalidParameter, match=complaint):
        ports.published((given,))


def test_exposed_ports() -> None:
    assert ports.exposed(("80", "90-91/udp")) == {"80/tcp": {}, "90/udp": {}, "91/udp": {}}
    with pytest.raises(InvalidParameter):
        ports.exposed(("80:80",))


def test_volumes_relative_ones_and_names() -> None:
    binds, anonymous = volumes(("./a:/a:ro", ".:/b", "name:/c", "/abs:/d", "/e", "relative/x:/f"), "/here")
    assert binds == ["/here/a:/a:ro", "/here:/b", "name:/c", "/abs:/d", "relative/x:/f"]
    assert anonymous == {"/e": {}}
    assert tmpfs(("/run:size=1m,mode=755", "/x")) == {"/run": "size=1m,mode=755", "/x": ""}


@pytest.mark.parametrize(
    ("given", "mount"),
    [
        ("type=bind,source=/a,target=/b,readonly", {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True}),
        ("type=bind,src=./a,dst=/b,ro=false", {"Type": "bind", "Source": "/h/a", "Target": "/b", "ReadOnly": False}),
        ("src=v,target=/b", {"Type": "volume", "Source": "v", "Target": "/b"}),
        (
            "type=tmpfs,destination=/t,tmpfs-size=1m,tmpfs-mode=1770",
            {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1770}},
        ),
    ],
)
def test_mounts(given: str, mount: dict[str, Any]) -> None:
    assert mounts((given,), "/h") == [mount]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("type=bind,src=/x", "target is required"),
        ("type=bind,target=/x", "source is required"),
        ("type=floppy,target=/x", "not known"),
        ("type=tmpfs,target=/x,nonsense=1", "unexpected key 'nonsense'"),
        ("type=tmpfs,target=/x,volume-nocopy", "cannot mix"),
        ("target", "must be a key=value pair"),
        ("target=/x,readonly=perhaps", "invalid value for readonly"),
    ],
)
def test_bad_mounts(given: str, complaint: str) -> None:
    with pytest.raises(FlagError, match=f'for "--mount" flag: .*{complaint}'):
        mounts((given,), "/")


def test_files_of_variables(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbf# comment\n\n  A=b c \nFROM\nMISSING\nB=\n"
    assert parse_env_file(text, "f", {"FROM": "here"}) == ["A=b c ", "FROM=here", "B="]
    for wrong in (b"=x", b"A B=x", b"\xff"):
        with pytest.raises(InvalidParameter):
            parse_env_file(wrong, "f", {})
    (tmp_path / "f").write_bytes(b"X=1\n")
    assert environment_list((str(tmp_path / "f"),), ("Y", "Z", "X=2"), {"Y": "y"}) == ["X=1", "Y=y", "Z", "X=2"]
    with pytest.raises(InvalidParameter, match="open /no/such: no such file or directory"):
        environment_list(("/no/such",), (), {})


def test_ulimits_devices_and_rates() -> None:
    assert limits.ulimits(["nofile=1024:2048", "core=-1"]) == [
        {"Name": "nofile", "Soft": 1024, "Hard": 2048},
        {"Name": "core", "Soft": -1, "Hard": -1},
    ]
    for wrong in ("nofile", "nofile=x", "nofile=3:2"):
        with pytest.raises(InvalidParameter):
            limits.ulimits([wrong])


def test_networks() -> None:
    options: dict[str, Any] = dict.fromkeys(("ip", "ip6", "mac_address"), "")
    options |= dict.fromkeys(("network", "link_local_ip", "network_alias", "link"), ())
    assert networks.endpoints(options) == ("default", {})
    assert networks.endpoints({**options, "network": ("host",)}) == ("host", {})
    mode, found = networks.endpoints(
        {**options, "network": ("name=n,alias=a,ip=10.0.0.2", "m"), "network_alias": ("b",)}
    )
    assert mode == "n"
    assert found == {"n": {"Aliases": ["a", "b"], "IPAMConfig": {"IPv4Address": "10.0.0.2"}}, "m": {}}
    with pytest.raises(InvalidParameter):
        networks.endpoints({**options, "network": ("n", "host")})


SUBNET = ("10.9.0.0/24",)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ((SUBNET, ("zz",), (), ()), 'invalid argument "zz" for "--gateway" flag: invalid address'),
        ((SUBNET, (), ("zz",), ()), 'invalid argument "zz" for "--ip-range" flag: invalid CIDR block notation'),
        ((SUBNET, (), (), ("a=zz",)), 'invalid argument "a=zz" for "--aux-address" flag: invalid address'),
        ((SUBNET, (), (), ("zz",)), 'invalid argument "zz" for "--aux-address" flag: invalid address'),
        ((("zz",), (), (), ()), 'invalid argument "zz" for "--subnet" flag: invalid CIDR block notation'),
        (((), ("zz",), (), ()), 'invalid argument "zz" for "--gateway" flag: invalid address'),
        ((SUBNET, ("10.8.0.1",), (), ()), "no matching subnet for gateway 10.8.0.1"),
        ((SUBNET, (), ("10.8.0.0/25",), ()), "no matching subnet for range 10.8.0.0/25"),
        ((SUBNET, (), (), ("a=10.8.0.1",)), "no matching subnet for aux-address 10.8.0.1"),
    ],
)
def test_a_networks_address_that_is_wrong_is_named_with_its_flag(asked: tuple[Any, ...], words: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        network_create.subnets(*asked)
    assert caught.value.message == words


def test_a_networks_addresses_are_put_with_their_subnets() -> None:
    asked = ("10.9.0.0/24", "fd00:9::/64"), ("fd00:9::1", "10.9.0.1"), ("10.9.0.128/25",), ("a=10.9.0.2", "b=fd00:9::2")
    assert network_create.subnets(*asked) == [
        {
            "Subnet": "10.9.0.0/24",
            "Gateway": "10.9.0.1",
            "IPRange": "10.9.0.128/25",
            "AuxiliaryAddresses": {"a": "10.9.0.2"},
        },
        {"Subnet": "fd00:9::/64", "Gateway": "fd00:9::1", "AuxiliaryAddresses": {"b": "fd00:9::2"}},
    ]


def test_detach_keys() -> None:
    assert key_bytes("ctrl-p,ctrl-q") == b"\x10\x11"
    assert key_bytes("ctrl-@,a,ctrl-[") == b"\x00a\x1b"
    for wrong in ("ctrl-", "ctrl-aa", "ab", ""):
        with pytest.raises(InvalidParameter):
            key_bytes(wrong)
    matcher = DetachMatcher(b"\x10\x11")
    for typed, matched in ((b"x\x10", False), (b"x\x11", False), (b"\x10\x10", False), (b"\x11", True)):
        matcher.feed(typed)
        assert matcher.matched is matched
