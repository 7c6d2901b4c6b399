"""Networks as a user sees them: made, joined, left, removed; with the real docker client too."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.busybox import busybox_tar
from tests.e2e.conftest import Installation, until
from tests.e2e.test_survival import own_processes

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]
SLEEP = ("busybox", "sleep", "1000")


@pytest.fixture
def net(rootless: Installation, name: str) -> Iterator[str]:
    """A network of this test's own; its containers are called <net>-something."""
    yield name
    ids = rootless.out("ps", "-aq", "--filter", f"name={name}").split()
    if ids:
        rootless("rm", "-f", *ids, check=None)
    for network in rootless.out("network", "ls", "-q", "--filter", f"name={name}").split():
        rootless("network", "rm", network, check=None)


def inside(rootless: Installation, container: str, script: str) -> str:
    done = rootless("exec", container, "sh", "-c", script, check=None)
    if done.returncode:
        state = rootless.out("inspect", "-f", "{{json .State}}", container, check=None)
        log = (rootless.home / "run" / "launcher.log").read_text()
        pytest.fail(f"{script!r} in {container}: {done!r}\n{state}\n{log[-4000:]}")
    return done.stdout.decode().strip()


def test_containers_find_each_other_by_name_alias_and_id(rootless: Installation, net: str) -> None:
    rootless("network", "create", net)
    db = rootless.out("run", "-d", "--name", f"{net}-db", "--network", net, "--network-alias", "store", *SLEEP)
    rootless("run", "-d", "--name", f"{net}-db2", "--network", f"name={net},alias=store", *SLEEP)
    address = rootless.out("inspect", "-f", f'{{{{(index .NetworkSettings.Networks "{net}").IPAddress}}}}', f"{net}-db")
    rootless("run", "-d", "--name", f"{net}-web", "--network", net, *SLEEP)
    for wanted in (f"{net}-db", db[:12], f"{net}-db.{net}"):
        assert f"Address: {address}\n" in inside(rootless, f"{net}-web", f"nslookup {wanted} && ping -c1 -w5 {wanted}")
    assert inside(rootless, f"{net}-web", "nslookup store").count("Address: ") >= 2
    assert f"name = {net}-db" in inside(rootless, f"{net}-web", f"nslookup {address}")
    rootless("rename", f"{net}-db", f"{net}-new")
    assert address in inside(rootless, f"{net}-web", f"nslookup {net}-new")
    rootless("rm", "-f", f"{net}-new")
    assert rootless("exec", f"{net}-web", "nslookup", f"{net}-new", check=None).returncode != 0


def test_connect_and_disconnect_a_running_container(rootless: Installation, net: str) -> None:
    other = f"{net}-o"
    rootless("network", "create", net)
    rootless("network", "create", "--subnet", "10.199.0.0/24", other)
    rootless("run", "-d", "--name", f"{net}-a", "--network", net, *SLEEP)
    rootless("run", "-d", "--name", f"{net}-b", "--network", other, *SLEEP)
    assert rootless("exec", f"{net}-a", "ping", "-c1", "-w1", f"{net}-b", check=None).returncode != 0
    address = rootless.out("exec", f"{net}-b", "hostname", "-i")
    refused = rootless("exec", f"{net}-a", "nc", "-w", "3", address, "80", check=1)
    assert b"Connection refused" in refused.stderr  # and not sent to whoever the machine's default gateway is
    rootless("network", "connect", "--ip", "10.199.0.77", "--alias", "second", other, f"{net}-a")
    assert "10.199.0.77/24" in inside(rootless, f"{net}-a", "ip -4 addr show eth1")
    inside(rootless, f"{net}-a", f"ping -c1 -w5 {net}-b")  # a name of a network that is not its first
    inside(rootless, f"{net}-b", "ping -c1 -w5 second")
    rootless("network", "disconnect", net, f"{net}-a")
    assert "eth0" not in inside(rootless, f"{net}-a", "ip link")
    assert "via 10.199.0.1 dev eth1" in inside(rootless, f"{net}-a", "ip route")
    assert "10.199.0.1" in inside(rootless, f"{net}-a", "cat /etc/resolv.conf")
    inside(rootless, f"{net}-a", f"ping -c1 -w5 {net}-b")
    rootless("restart", "-t", "0", f"{net}-a")
    assert "10.199.0.77/24" in inside(rootless, f"{net}-a", "ip -4 addr show eth0")


def test_a_container_that_could_not_start_is_on_no_network(rootless: Installation, net: str) -> None:
    rootless("network", "create", net)
    rootless("run", "-d", "--name", f"{net}-a", "--network", net, *SLEEP)
    rootless("run", "--name", f"{net}-b", "--network", net, "-p", "28300:80", "busybox", "/no/such/command", check=127)
    assert rootless("exec", f"{net}-a", "nslookup", f"{net}-b", check=None).returncode != 0
    assert rootless.out("network", "inspect", "-f", "{{len .Containers}}", net) == "1"
    rootless("run", "--rm", "-p", "28300:80", "busybox", "true")


def test_a_network_shared_with_another_container(rootless: Installation, net: str) -> None:
    rootless("run", "-d", "--name", f"{net}-a", *SLEEP)
    shared = ("run", "--rm", "--network", f"container:{net}-a", "busybox")
    own = inside(rootless, f"{net}-a", "ip -o addr show eth0; hostname")
    assert rootless.out(*shared, "sh", "-c", "ip -o addr show eth0; hostname") == own
    rootless(*shared, "sh", "-c", "arping -c1 -w5 -I eth0 172.17.0.1 && ls /sys/class/net/eth0/")
    rootless("run", "-d", "--name", f"{net}-b", "--network", f"container:{net}-a", *SLEEP)
    third = ("run", "--rm", "--network", f"container:{net}-b", "busybox")
    assert rootless.out(*third, "sh", "-c", "ip -o addr show eth0; hostname") == own
    rootless("rm", "-f", f"{net}-a", f"{net}-b")
    rootless("run", "-d", "--name", f"{net}-h", "--network", "host", *SLEEP)
    shared = ("run", "--rm", "--network", f"container:{net}-h", "busybox")
    assert rootless.out(*shared, "readlink", "/proc/self/ns/net") == os.readlink("/proc/self/ns/net")
    rootless("stop", "-t", "0", f"{net}-h")
    assert "non running container" in rootless(*shared, "true", check=125).stderr.decode()


def test_refusals_change_nothing(rootless: Installation, net: str) -> None:
    rootless("network", "create", "--subnet", "10.198.0.0/24", "--gateway", "10.198.0.254", net)
    before = rootless.out("network", "ls", "--no-trunc")

    def refused(words: str, *args: str) -> None:
        assert words in rootless(*args, check=None).stderr.decode(), args

    refused("already exists", "network", "create", net)
    refused("Pool overlaps", "network", "create", "--subnet", "10.198.0.128/25", f"{net}2")
    refused("it should be 10.197.0.0/24", "network", "create", "--subnet", "10.197.0.1/24", f"{net}2")
    refused("predefined", "network", "create", "bridge")
    refused("cannot be removed", "network", "rm", "bridge")
    refused("not found", "network", "rm", f"{net}-none")
    refused("plugin not found", "network", "create", "-d", "macvlan", f"{net}2")
    refused("only [a-zA-Z0-9]", "network", "create", "a/b")
    run = ("run", "-d", "--network", net)
    refused("no configured subnet", *run, "--ip", "10.9.9.9", *SLEEP)
    refused("user defined networks only", "run", "-d", "--ip", "172.17.0.9", *SLEEP)
    refused("invalid MAC", *run, "--mac-address", "zz", *SLEEP)
    refused("not found", "run", "-d", "--network", f"{net}-none", *SLEEP)
    rootless(*run, "--name", f"{net}-a", "--ip", "10.198.0.7", "--mac-address", "02:11:22:33:44:55", *SLEEP)
    refused("Address already in use", *run, "--name", f"{net}-b", "--ip", "10.198.0.7", *SLEEP)
    refused("has active endpoints", "network", "rm", net)
    refused("already exists in network", "network", "connect", net, f"{net}-a")
    refused("is not connected", "network", "disconnect", net, _stopped(rootless, net))
    assert "02:11:22:33:44:55" in inside(rootless, f"{net}-a", "ip link show eth0")
    assert "default via 10.198.0.254" in inside(rootless, f"{net}-a", "ip route")
    assert rootless.out("network", "ls", "--no-trunc") == before


def _stopped(rootless: Installation, net: str) -> str:
    rootless("create", "--name", f"{net}-stopped", "busybox", "true")
    return f"{net}-stopped"


def test_networks_survive_the_engine(rootless: Installation, net: str) -> None:
    rootless("network", "create", "--label", "a=b", net)
    rootless("run", "-d", "--name", f"{net}-a", "--network", net, *SLEEP)
    before = rootless.out("network", "inspect", net)
    os.kill(int(rootless.out("system", "status", "--format", "{{.EnginePid}}")), signal.SIGKILL)
    assert rootless.out("network", "inspect", net) == before
    rootless("run", "--rm", "--network", net, "busybox", "ping", "-c1", "-w5", f"{net}-a")


def test_links_and_extra_hosts(rootless: Installation, net: str) -> None:
    rootless("run", "-d", "--name", f"{net}-a", "--expose", "80", "-e", "COLOUR=red", *SLEEP)
    run = ("run", "--rm", "--link", f"{net}-a:db", "--add-host", "x:1.2.3.4", "busybox")
    text = rootless.out(*run, "sh", "-c", "ping -c1 -w5 db && cat /etc/hosts && env")
    assert "1.2.3.4\tx" in text
    address = rootless.out("inspect", "-f", "{{.NetworkSettings.IPAddress}}", f"{net}-a")
    for line in (f"DB_PORT=tcp://{address}:80", "DB_PORT_80_TCP_PORT=80", "DB_ENV_COLOUR=red"):
        assert f"\n{line}\n" in text
    rootless("run", "-d", "--name", f"{net}-c", "--link", f"{net}-a:my-db", "-e", "MY_DB_NAME=own", *SLEEP)
    text = rootless.out("exec", f"{net}-c", "env")
    assert f"MY_DB_PORT_80_TCP=tcp://{address}:80" in text
    assert "MY_DB_NAME=own" in text
    rootless("stop", "-t", "0", f"{net}-a")
    assert "Cannot link to a non running container" in rootless(*run, "true", check=None).stderr.decode()


def test_the_docker_client(rootless: Installation, net: str) -> None:
    docker = rootless.docker
    docker("network", "create", "--subnet", "10.196.0.0/24", "--label", "x=y", "--internal", net)
    docker("network", "create", f"{net}-2")
    docker("run", "-d", "--name", f"{net}-a", "--network", net, "--network", f"{net}-2", *SLEEP)
    shown = json.loads(docker("network", "inspect", net).stdout)[0]
    assert (shown["Internal"], shown["Labels"]) == (True, {"x": "y"})
    assert [row["IPv4Address"] for row in shown["Containers"].values()] == ["10.196.0.2/24"]
    assert f"{net}-2".encode() in docker("ps", "--format", "{{.Networks}}").stdout
    docker("network", "disconnect", f"{net}-2", f"{net}-a")
    assert b"default" not in docker("exec", f"{net}-a", "ip", "route").stdout  # an internal network has no way out
    docker("network", "connect", f"{net}-2", f"{net}-a")
    assert b"default" in docker("exec", f"{net}-a", "ip", "route").stdout
    docker("rm", "-f", f"{net}-a")
    docker("network", "prune", "-f")
    assert docker("network", "ls", "-q", "--filter", f"name={net}").stdout == b""


def published(rootless: Installation, container: str, port: str) -> tuple[str, int]:
    host, _, number = rootless.out("port", container, port).splitlines()[0].rpartition(":")
    return host.replace("0.0.0.0", "127.0.0.1"), int(number)


def echoed(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return connection.recv(100)


def test_a_network_killed_under_its_connections(rootless: Installation, net: str) -> None:
    rootless("network", "create", net)
    script = "nc -ll -p 80 -e cat & nc -ll -p 81 -e cat & wait"
    rootless("run", "-d", "--name", f"{net}-a", "--network", net, "-p", "80", "busybox", "sh", "-c", script)
    address = published(rootless, f"{net}-a", "80/tcp")
    keep = f"mkfifo /f; (sleep 1; nc {net}-a 81 </f >/out) & exec 3>/f; echo one >&3; sleep 1000"
    rootless("run", "-d", "--name", f"{net}-b", "--network", net, "busybox", "sh", "-c", keep)
    with socket.create_connection(address, 10) as old:
        assert echoed(old, b"before") == b"before"
        _until(lambda: inside(rootless, f"{net}-b", "cat /out 2>/dev/null; true") == "one")
        assert _echoing(rootless, net) == 2
        before = {pid for pid, name, _ in own_processes() if name == "rl-network"}
        for pid in before:  # all of this user's: which is whose cannot be seen from outside
            os.kill(pid, signal.SIGKILL)
        _until(lambda: bool({pid for pid, name, _ in own_processes() if name == "rl-network"} - before))
        with socket.create_connection(address, 10) as new:
            assert echoed(new, b"after") == b"after"
            # the old connection's `cat` hears of its end; that of the other container and the new one stay
            _until(lambda: _echoing(rootless, net) == 2)
        with pytest.raises(OSError):
            assert echoed(old, b"x") == b"x" or _raise()
    inside(rootless, f"{net}-b", f"echo two >/proc/1/fd/3; nslookup {net}-a")
    _until(lambda: inside(rootless, f"{net}-b", "cat /out 2>/dev/null; true") == "one\ntwo")


def _echoing(rootless: Installation, net: str) -> int:
    """How many connections container a serves."""
    return sum(line.split()[7:] == ["cat"] for line in rootless.out("top", f"{net}-a").splitlines())


def _raise() -> bool:
    raise OSError("end of file")


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_published_ports(rootless: Installation, net: str) -> None:
    ports = ("-p", "127.0.0.1:28100-28101:80-81", "-p", "28110-28119:90/udp", "-p", "0:91", "-P", "--expose", "70")
    rootless("run", "-d", "--name", f"{net}-a", *ports, *SLEEP)
    rows = rootless.out("port", f"{net}-a").splitlines()
    assert rows[2:4] == ["80/tcp -> 127.0.0.1:28100", "81/tcp -> 127.0.0.1:28101"]
    assert rows[4].startswith("90/udp -> 0.0.0.0:281")
    assert {row.partition(" ")[0] for row in rows} == {"70/tcp", "80/tcp", "81/tcp", "90/udp", "91/tcp"}

    def refused(*ports: str) -> str:
        options = [word for port in ports for word in ("-p", port)]
        return rootless("run", "--rm", *options, "busybox", "true", check=125).stderr.decode()

    assert "external connectivity on endpoint" in refused("28100:80")
    assert "port is already allocated" in refused("28100:80")
    assert "only tcp and udp" in refused("80/sctp")
    for wrong in ("x:80", "80:x", "70000:80", "8000-8002:80-81", "[::1:80", "80/foo"):
        assert "invalid" in refused(wrong), wrong
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) > 81:
        assert "sysctl net.ipv4.ip_unprivileged_port_start=81" in refused("81:80")
    rootless("rm", "-f", f"{net}-a")
    rootless(
        "run", "--rm", "-p", "28100:80", "busybox", "true"
    )  # free at once, and nothing is left of what was refused


def test_published_ports_follow_the_way_out(rootless: Installation, net: str) -> None:
    """Also where it had none for a while; and a network is not joined whose ports could not be had."""
    serve = "while true; do echo here | nc -l -p 80; done"
    rootless("network", "create", net)
    options = ("--name", f"{net}-a", "--network", net, "-p", "127.0.0.1:28130:80")
    rootless("run", "-d", *options, "busybox", "sh", "-c", serve)

    def answers() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", 28130), timeout=10) as client:
                return client.recv(4) == b"here"
        except OSError:
            return False

    until(answers)
    for _ in range(3):
        rootless("network", "disconnect", net, f"{net}-a")
        until(lambda: not answers())
        rootless("network", "connect", net, f"{net}-a")
        until(answers)
    rootless("network", "disconnect", net, f"{net}-a")
    until(lambda: not answers())
    with socket.create_server(("127.0.0.1", 28130)):
        refused = rootless("network", "connect", net, f"{net}-a", check=1)
        assert b"port is already allocated" in refused.stderr
        assert "eth" not in inside(rootless, f"{net}-a", "ip link")
    rootless("network", "connect", net, f"{net}-a")
    until(answers)


def test_a_network_is_left_though_the_ports_are_not_free_on_the_next(rootless: Installation, net: str) -> None:
    """Somebody has the port on the address that the next one publishes on."""
    other = f"{net}-o"
    rootless("network", "create", "-o", "com.docker.network.bridge.host_binding_ipv4=127.0.0.1", net)
    rootless("network", "create", "-o", "com.docker.network.bridge.host_binding_ipv4=127.0.0.2", other)
    rootless("run", "-d", "--name", f"{net}-a", "--network", net, "-p", "28140:80", *SLEEP)
    rootless("network", "connect", other, f"{net}-a")
    with socket.create_server(("127.0.0.2", 28140)):
        refused = rootless("network", "disconnect", net, f"{net}-a", check=1)
    assert b"port is already allocated" in refused.stderr
    assert rootless.out("port", f"{net}-a") == ""
    shown = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}"
    assert rootless.out("inspect", "-f", shown, f"{net}-a").split() == [other]
    rootless("network", "connect", net, f"{net}-a")
    rootless("network", "disconnect", other, f"{net}-a")
    assert "28140" in rootless.out("port", f"{net}-a")


def test_the_hosts_loopback_is_reached_where_that_is_allowed(fresh: Installation) -> None:
    (fresh.home / "config.toml").write_text("host_loopback = true\n")
    fresh("import", "-c", 'CMD ["/bin/sh"]', "-", "busybox", stdin=busybox_tar())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for name in ("host.docker.internal", "host.containers.internal"):
            fresh("run", "--rm", "busybox", "nc", "-w", "3", name, str(port), "-e", "true")
        fresh("run", "--rm", "--add-host", "up:host-gateway", "busybox", "nc", "-w", "3", "up", str(port), "-e", "true")


def test_prune_spares_the_young(rootless: Installation, net: str) -> None:
    rootless("network", "create", net)
    assert net not in rootless.out("network", "prune", "-f", "--filter", "until=1h")
    assert net in rootless.out("network", "prune", "-f", "--filter", "until=0s")


def test_ipv6(rootless: Installation, net: str) -> None:
    rootless("network", "create", "--ipv6", "--subnet", "fd00:a5::/64", net)
    rootless("run", "-d", "--name", f"{net}-a", "--network", net, "--ip6", "fd00:a5::77", "-p", "28200:80", *SLEEP)
    rootless("exec", "-d", f"{net}-a", "nc", "-ll", "-p", "80", "-e", "cat")
    script = f"ping -6 -c1 -w5 {net}-a && nslookup -type=AAAA {net}-a && ip -6 route"
    said = rootless.out("run", "--rm", "--network", net, "busybox", "sh", "-c", script)
    assert "Address: fd00:a5::77" in said
    assert said.count("default") == 1
    with socket.create_connection(("::1", 28200), 10) as client:
        assert echoed(client, b"over ipv6") == b"over ipv6"
    assert "fd00:a5::77/64" in rootless.out("network", "inspect", net)


def test_without_ipv4(rootless: Installation, net: str) -> None:
    rootless("network", "create", "--ipv4=false", "--ipv6", net)
    rootless("run", "-d", "--name", f"{net}-a", "--network", net, "-p", "28210:80", *SLEEP)
    rootless("exec", "-d", f"{net}-a", "nc", "-ll", "-p", "80", "-e", "cat")
    script = f"ping -6 -c1 -w5 {net}-a && nslookup -type=AAAA {net}-a && ip -4 -o addr"
    said = rootless.out("run", "--rm", "--network", net, "busybox", "sh", "-c", script)
    assert "eth0" not in said
    for host in ("::1", "127.0.0.1"):  # the client's version of IP is the host's affair
        with socket.create_connection((host, 28210), 10) as client:
            assert echoed(client, b"over ipv6") == b"over ipv6"
    shown = json.loads(rootless.out("network", "inspect", net))[0]
    assert (shown["EnableIPv4"], shown["EnableIPv6"], len(shown["IPAM"]["Config"])) == (False, True, 1)
    rootless("network", "create", f"{net}-2")
    rootless("network", "connect", f"{net}-2", f"{net}-a")
    rootless("network", "disconnect", net, f"{net}-a")
    assert "127.0.0.1" in inside(rootless, f"{net}-a", "ip -4 addr")
    assert "dev eth1" in inside(rootless, f"{net}-a", "ip -4 route")


def test_a_capture_of_what_passes(rootless: Installation, net: str) -> None:
    rootless("network", "create", net)
    assert b"nothing to capture" in rootless("network", "pcap", net, check=1).stderr
    rootless("run", "-d", "--name", f"{net}-a", "--network", net, *SLEEP)
    words = [str(rootless.command), "network", "pcap", net]
    capture = subprocess.Popen(words, env=rootless.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert capture.stdout is not None
    seen = capture.stdout.read(24)
    assert seen[:4] == bytes.fromhex("4d3cb2a1")
    inside(rootless, f"{net}-a", "nslookup needle.example >/dev/null 2>&1; true")
    while b"\x06needle\x07example" not in seen[-4096:]:
        data = capture.stdout.read1(4096)
        assert data
        seen += data
    capture.terminate()
    capture.wait(20)
    capture.stdout.close()


def post(rootless: Installation, path: str, value: object) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("docker")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(rootless.socket))
    with contextlib.closing(connection):
        connection.request("POST", path, json.dumps(value), {"Content-Type": "application/json"})
        return connection.getresponse()


def test_a_request_of_wrong_types_is_a_bad_request(rootless: Installation, net: str) -> None:
    """Sent as they come; which field may be what is `tests.model.test_request_types`'."""

    def status(path: str, value: object) -> int:
        return post(rootless, path, value).status

    rootless("run", "-d", "--name", net, *SLEEP)
    create = "/containers/create"
    for bindings in (5, "80", {"80/tcp": 5}, {"80/tcp": "80"}, {"80/tcp": [5]}):
        assert status(create, {"Image": "busybox", "HostConfig": {"PortBindings": bindings}}) == 400
    assert status(create, {"Image": "busybox", "NetworkingConfig": {"EndpointsConfig": {"bridge": 5}}}) == 400
    assert status(create, {"Image": 5}) == 400
    assert status("/networks/bridge/connect", {"Container": net, "EndpointConfig": {"Aliases": 5}}) == 400
    rootless("network", "create", net)
    for links in (["a/b:-"], [""]):  # as the first it made a device that nobody knew
        assert status(f"/networks/{net}/connect", {"Container": net, "EndpointConfig": {"Links": links}}) == 400
    assert status(f"/networks/{net}/connect", {"Container": net}) == 200
    assert status("/networks/create", {"Name": f"{net}-2", "IPAM": {"Config": 5}}) == 400
    assert status(f"/containers/{net}/exec", {"Cmd": ["true"], "Env": 5}) == 400
