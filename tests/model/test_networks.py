"""Networks and addresses: what is made of a request, and what is refused with which words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.model import ports, request_types
from rootless.model.addresses import Addresses, Pool, pool_of
from rootless.model.endpoints import endpoints_of, links_of
from rootless.model.errors import Conflict, Forbidden, InvalidParameter, NotFound, RootlessError
from rootless.model.links import link_environment
from rootless.model.networks import Network, network_of
from rootless.model.request_types import check_types

BRIDGE = Network("b" * 64, "bridge", "", pool4=Pool("172.17.0.0/16", "172.17.0.1"))
HOST = Network("h" * 64, "host", "", "host")
NONE = Network("0" * 64, "none", "", "null")
MINE = Network("c" * 64, "mine", "", pool4=Pool("10.5.0.0/24", "10.5.0.1"), configured=True)
AUTO = Network("d" * 64, "auto", "", pool4=Pool("172.18.0.0/16", "172.18.0.1"))
ALL = {network.name: network for network in (BRIDGE, HOST, NONE, MINE, AUTO)}


def endpoints(asked: dict[str, Any]) -> dict[str, dict[str, Any]]:
    check_types(asked, request_types.CONTAINER)
    return endpoints_of(asked, find)


def find(text: str) -> Network:
    if text not in ALL:
        raise NotFound(f"network {text} not found")
    return ALL[text]


def make(**body: Any) -> Network:
    """As the API does: types first."""
    asked = {"Name": "new", **body}
    check_types(asked, request_types.NETWORK)
    return network_of(
        asked,
        list(ALL.values()),
        ["192.168.0.0/20", "172.19.0.0/24"],
        network_id="e" * 64,
        created="",
        private6="fd12:3456:789a:1::/64",
    )


def ipam(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"Config": list(rows)}


def test_a_network_takes_the_first_subnet_that_is_nobodys() -> None:
    made = make(EnableIPv6=True)
    assert made.pool4 == Pool("172.20.0.0/16", "172.20.0.1")
    assert made.pool6 == Pool("fd12:3456:789a:1::/64", "fd12:3456:789a:1::1")
    assert not made.configured
    assert Network.from_dict(made.as_dict()) == made


def test_subnets_are_kept_as_they_were_asked_for() -> None:
    row = {
        "Subnet": "10.6.0.0/16",
        "IPRange": "10.6.4.0/24",
        "Gateway": "10.6.0.9",
        "AuxiliaryAddresses": {"r": "10.6.4.0"},
    }
    made = make(IPAM=ipam(row, {"Subnet": "fd00::/64"}), EnableIPv6=True, Internal=True, Labels={"a": "b"})
    assert made.shape({})["IPAM"]["Config"] == [row, {"Subnet": "fd00::/64", "Gateway": "fd00::1"}]
    assert (made.internal, made.labels, made.configured) == (True, {"a": "b"}, True)


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        ({"Name": "mine"}, Conflict, "network with name mine already exists"),
        ({"Name": "bridge"}, Forbidden, "predefined bridge network"),
        ({"Name": "a b"}, InvalidParameter, "invalid network name"),
        ({"Driver": "overlay"}, NotFound, "plugin not found"),
        ({"Driver": "host"}, Forbidden, "only one instance"),
        ({"IPAM": ipam({"Subnet": "10.5.0.0/25"})}, Forbidden, "Pool overlaps"),
        ({"IPAM": ipam({"Subnet": "10.6.0.1/24"})}, InvalidParameter, "it should be 10.6.0.0/24"),
        ({"IPAM": ipam({"Subnet": "10.6.0.0/33"})}, InvalidParameter, "invalid CIDR"),
        ({"IPAM": ipam({"Subnet": "10.6.0.0/31"})}, InvalidParameter, "too small"),
        ({"IPAM": ipam({"Subnet": "10.6.0.0/24", "Gateway": "10.7.0.1"})}, InvalidParameter, "not in the subnet"),
        ({"IPAM": ipam({"Subnet": "10.6.0.0/24", "Gateway": "10.6.0.255"})}, Forbidden, "Address already in use"),
        ({"IPAM": ipam({"Subnet": "10.6.0.0/24", "Gateway": "10.6.0.0"})}, Forbidden, "Address already in use"),
        ({"IPAM": ipam({"Subnet": "10.6.0.0/24", "IPRange": "10.7.0.0/25"})}, InvalidParameter, "within 10.6.0.0/24"),
        ({"IPAM": ipam({"Subnet": "fd00::/64"})}, InvalidParameter, "IPv6 is not enabled"),
        ({"EnableIPv4": False}, InvalidParameter, "IPv4 or IPv6 must be enabled"),
        (
            {"EnableIPv4": False, "EnableIPv6": True, "IPAM": ipam({"Subnet": "10.6.0.0/24"})},
            InvalidParameter,
            "IPv4 is not enabled",
        ),
        ({"IPAM": {"Driver": "x"}}, NotFound, "IPAM driver"),
        ({"Options": {"fast": "very"}}, InvalidParameter, "neither true nor false"),
        ({"IPAM": "x"}, InvalidParameter, "IPAM must be"),
        ({"Labels": {"a": 1}}, InvalidParameter, "Labels.a must be"),
        ({"Options": {"com.docker.network.driver.mtu": "70000"}}, InvalidParameter, "576 to 65520"),
        ({"Scope": "swarm"}, InvalidParameter, "scope"),
    ],
)
def test_what_is_refused(body: dict[str, Any], error: type[RootlessError], words: str) -> None:
    with pytest.raises(error, match=words):
        make(**body)


_words = st.sampled_from(
    [
        "",
        "x",
        "10.9.0.0/16",
        "10.9.0.1",
        "fd00::/64",
        "fd00::1",
        "0.0.0.0/0",
        "::/0",
        "127.0.0.0/8",
        "1/2/3",
        "10.9.0.0/31",
    ]
)
_values = st.none() | st.booleans() | st.integers(-5, 5) | _words
_rows = st.dictionaries(
    st.sampled_from(["Subnet", "Gateway", "IPRange", "AuxiliaryAddresses"]),
    _values | st.dictionaries(_words, _values, max_size=2),
)
_ipam = st.fixed_dictionaries(
    {}, optional={"Config": _values | st.lists(_rows | _values, max_size=3), "Options": _values}
)
_settings = st.dictionaries(
    st.sampled_from(["IPAMConfig", "Links", "Aliases", "MacAddress", "DriverOpts", "GwPriority"]),
    _values | st.lists(_values, max_size=2) | st.dictionaries(st.sampled_from(["IPv4Address", "IPv6Address"]), _values),
)


@given(
    st.dictionaries(
        st.sampled_from(["Driver", "Scope", "EnableIPv4", "EnableIPv6", "Options", "Labels", "Internal"]), _values
    ),
    _ipam,
)
def test_any_request_for_a_network_is_answered_or_refused(more: dict[str, Any], config: dict[str, Any]) -> None:
    try:
        made = make(**more, IPAM=config)
    except RootlessError:
        return
    assert Network.from_dict(made.as_dict()) == made
    for pool in made.pools:
        Addresses(pool).take("a")


@given(st.sampled_from([*ALL, "container:x", ""]), st.dictionaries(st.sampled_from([*ALL, "x"]), _settings | _values))
def test_any_endpoints_are_answered_or_refused(mode: str, config: dict[str, Any]) -> None:
    try:
        endpoints(body(mode, config))
    except RootlessError:
        return


@given(st.integers(2, 30), st.lists(st.integers(0, 40)))
def test_no_address_has_two_owners(prefix_room: int, releases: list[int]) -> None:
    addresses = Addresses(pool_of({"Subnet": "10.0.0.0/27", "AuxiliaryAddresses": {"x": "10.0.0.9"}}))
    held: dict[str, str] = {}
    for number in range(prefix_room + len(releases)):
        try:
            held[str(number)] = addresses.take(str(number))
        except Conflict:
            assert len(held) == 28  # 32 without network, broadcast, gateway and the auxiliary one
        assert len(set(held.values())) == len(held)
        assert not {"10.0.0.0", "10.0.0.1", "10.0.0.9", "10.0.0.31"} & set(held.values())
        if number < len(releases) and held.pop(str(releases[number]), None):
            addresses.release(str(releases[number]))


def test_an_address_that_is_taken() -> None:
    addresses = Addresses(Pool("10.0.0.0/24", "10.0.0.1", "10.0.0.128/25"))
    assert addresses.take("a") == "10.0.0.129"
    assert addresses.take("b", "10.0.0.7") == "10.0.0.7"
    for taken in ("10.0.0.7", "10.0.0.1", "10.0.0.255"):
        with pytest.raises(Forbidden, match="in use"):
            addresses.take("c", taken)
    with pytest.raises(InvalidParameter, match="not in the subnet"):
        addresses.take("c", "10.1.0.1")
    addresses.release("b")
    assert addresses.take("c", "10.0.0.7") == "10.0.0.7"


def body(mode: str = "mine", config: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    host = {"NetworkMode": mode, **more.pop("HostConfig", {})}
    return {"HostConfig": host, "NetworkingConfig": {"EndpointsConfig": config or {}}, **more}


def test_the_networks_of_a_container() -> None:
    assert list(endpoints({})) == ["bridge"]
    assert list(endpoints(body("default"))) == ["bridge"]
    assert endpoints(body("container:x")) == {}
    asked = {"mine": {"Aliases": ["db", "db"], "IPAMConfig": {"IPv4Address": "10.5.0.7"}}, "auto": None}
    found = endpoints(body("mine", asked, MacAddress="02-00-00-00-00-0A"))
    assert list(found) == ["mine", "auto"]
    assert found["mine"]["Aliases"] == ["db"]
    assert found["mine"]["MacAddress"] == "02:00:00:00:00:0a"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (body("nowhere"), "network nowhere not found"),
        (body("mine", {"host": {}}), "conflicting options"),
        (body("host", {"mine": {}}), "conflicting options"),
        (body("container:x", {"mine": {}}), "conflicting options"),
        (body("container:x", HostConfig={"PublishAllPorts": True}), "port publishing"),
        (body("container:x", Hostname="h"), "hostname"),
        (body("bridge", {"bridge": {"IPAMConfig": {"IPv4Address": "172.17.0.9"}}}), "user defined networks only"),
        (body("bridge", {"bridge": {"Aliases": ["x"]}}), "only supported for user-defined"),
        (body("auto", {"auto": {"IPAMConfig": {"IPv4Address": "172.18.0.9"}}}), "user configured subnets"),
        (body("mine", {"mine": {"IPAMConfig": {"IPv4Address": "10.6.0.9"}}}), "no configured subnet"),
        (body("mine", {"mine": {"IPAMConfig": {"IPv6Address": "fd00::9"}}}), "no IPv6 subnet"),
        (body("mine", {"mine": {"IPAMConfig": {"IPv4Address": "x"}}}), "invalid IPv4 address"),
        (body("mine", {"mine": {"MacAddress": "01:00:00:00:00:00"}}), "no address of a single device"),
        (body("mine", {"mine": {"Aliases": ["-x"]}}), "invalid network alias"),
        (body("mine", {"mine": "x"}), "must be an object"),
        (body("mine", {"mine": {"IPAMConfig": {"LinkLocalIPs": ["zz"]}}}), "invalid link-local IP address: zz"),
        (body("mine", {"mine": {"IPAMConfig": {"LinkLocalIPs": ["169.254.3.4"]}}}), "are not supported: 169.254.3.4"),
        (body("mine", {"mine": {"Links": ["a:-"]}}), "bad format for links: a:-"),
        (body("mine", {"mine": {"IPAMConfig": {"LinkLocalIPs": 5}}}), "LinkLocalIPs must be a list"),
    ],
)
def test_what_no_container_may_have(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(RootlessError, match=words):
        endpoints(asked)


def test_links() -> None:
    assert links_of(["db", "db:store", "/db:/web/store"]) == [("db", "db"), ("db", "store"), ("db", "store")]
    with pytest.raises(InvalidParameter, match="bad format"):
        links_of([":x"])


def test_a_range_of_ports_of_the_host() -> None:
    (found,) = ports.publications({"80/tcp": [{"HostPort": "8000-8010"}]})
    assert (found.host_port, found.host_port_end) == (8000, 8010)
    for wrong in ("8010-8000", "1-70000", "x", "-5"):
        with pytest.raises(InvalidParameter, match="invalid port"):
            ports.publications({"80/tcp": [{"HostPort": wrong}]})


def test_the_environment_of_a_link() -> None:
    exposed = ["5433/tcp", "5432/tcp", "53/udp"]
    found = link_environment("web", "my-db", "172.17.0.5", exposed, ["PATH=/bin", "HOME=/", "MODE=a=b", "BARE"])
    assert found == (
        "MY_DB_PORT=tcp://172.17.0.5:5432",
        "MY_DB_PORT_5432_TCP_START=tcp://172.17.0.5:5432",
        "MY_DB_PORT_5432_TCP_ADDR=172.17.0.5",
        "MY_DB_PORT_5432_TCP_PROTO=tcp",
        "MY_DB_PORT_5432_TCP_PORT_START=5432",
        "MY_DB_PORT_5432_TCP_PORT_END=5433",
        "MY_DB_PORT_5432_TCP=tcp://172.17.0.5:5432",
        "MY_DB_PORT_5432_TCP_PORT=5432",
        "MY_DB_PORT_5433_TCP=tcp://172.17.0.5:5433",
        "MY_DB_PORT_5433_TCP_ADDR=172.17.0.5",
        "MY_DB_PORT_5433_TCP_PORT=5433",
        "MY_DB_PORT_5433_TCP_PROTO=tcp",
        "MY_DB_PORT_53_UDP=udp://172.17.0.5:53",
        "MY_DB_PORT_53_UDP_ADDR=172.17.0.5",
        "MY_DB_PORT_53_UDP_PORT=53",
        "MY_DB_PORT_53_UDP_PROTO=udp",
        "MY_DB_NAME=/web/my-db",
        "MY_DB_ENV_MODE=a=b",
    )
    assert link_environment("web", "db", "172.17.0.5", [], []) == ("DB_NAME=/web/db",)
