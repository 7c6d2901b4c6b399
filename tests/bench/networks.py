"""Real programs on networks of ours and of podman's (CNI bridge, rootlessport), in one run.

    python -m tests.bench.networks --tar debian.tar [--seconds 8] [--only iperf3,pgbench,wrk,dns]
                                   [--engines rootless,podman]

As an ordinary user, with iperf3, postgresql, nginx, wrk, dnsperf and podman on the machine: the programs are
bind-mounted into containers of the Debian tree. Containers are found by name where the engine has names. What goes over
loopback is without a network: both programs in one container, or on the host."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_NETWORK, _LARGE = "bench-net", "bench-large"
_LARGE_MTU = {"rootless": "com.docker.network.driver.mtu=65520", "podman": "mtu=65520"}
_DATABASE, _WEB, _PORT, _HOST_PORT = "bench-db", "bench-web", "18380", "18390"
_POSTGRES = """mkdir -p /var/lib/pg && chown 33:33 /var/lib/pg
exec setpriv --reuid 33 --regid 33 --clear-groups sh -c '
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
initdb -A trust -U bench -D /var/lib/pg/data >/dev/null
echo "host all all all trust" >>/var/lib/pg/data/pg_hba.conf
exec postgres -D /var/lib/pg/data -c listen_addresses="*" -c unix_socket_directories=/tmp'"""
_NGINX = """worker_processes 2; daemon off; user {user}; pid /tmp/{port}.pid; error_log stderr crit;
events {{ worker_connections 15000; }}
http {{ access_log off; keepalive_requests 1000000;
server {{ listen {port} backlog=4096; return 200 "$remote_addr\\n"; }}
client_body_temp_path /tmp/1; proxy_temp_path /tmp/2; fastcgi_temp_path /tmp/3; uwsgi_temp_path /tmp/4;
scgi_temp_path /tmp/5; }}
"""


class Engine:
    """docker's command line, whoever answers."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __call__(self, *args: str, check: bool = True) -> str:
        done = subprocess.run([self.command, *args], capture_output=True, text=True, check=False)
        if check and done.returncode:
            sys.exit(f"{self.command} {' '.join(args)}: {done.stderr}")
        return done.stdout + done.stderr

    def run(self, *args: str, network: str = _NETWORK) -> str:
        return self("run", "--network", network, "-v", "/usr:/usr:ro", *args)

    def place(self, container: str) -> str:
        """Its name, or where names are not known (podman 4.3 without aardvark-dns) its address."""
        if self.command != "podman":
            return container
        return self("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container).strip()


@contextlib.contextmanager
def installed(engine: Engine, tar: str) -> Iterator[None]:
    """The image, a network, and nothing of them afterwards."""

    def clean() -> None:
        engine("rm", "-f", _DATABASE, _WEB, check=False)
        engine("network", "rm", _NETWORK, _LARGE, check=False)

    clean()
    engine("import", tar, "bench-debian")
    engine("network", "create", _NETWORK)
    engine("network", "create", "--opt", _LARGE_MTU[engine.command], _LARGE)
    try:
        yield
    finally:
        clean()


def iperf3(engine: Engine, seconds: int) -> Iterator[tuple[str, float]]:
    """Between two containers, Mbit/s received."""
    for network, mtu in ((_NETWORK, "MTU 1500"), (_LARGE, "MTU 65520")):
        engine.run("-d", "--name", _WEB, "bench-debian", "iperf3", "-s", network=network)
        for what, flags in (
            ("one flow", ()),
            ("one flow, the other way", ("-R",)),
            ("one flow, both at once", ("--bidir",)),
            ("4 flows", ("-P", "4")),
            ("16 flows", ("-P", "16")),
            ("UDP, 1400 bytes", ("-u", "-b", "0", "-l", "1400")),
            ("UDP, 8192 bytes", ("-u", "-b", "0", "-l", "8192")),
        ):
            words = ["iperf3", "-J", "-c", engine.place(_WEB), "-t", str(seconds), *flags]
            said = engine.run("--rm", "bench-debian", *words, network=network)
            end = json.JSONDecoder().raw_decode(said)[0]["end"]
            for way in ("sum_received", "sum_received_bidir_reverse"):
                if way in end:
                    yield f"iperf3, {mtu}, {what}, Mbit/s", end[way]["bits_per_second"] / 1e6
        engine("rm", "-f", _WEB)


def pgbench(engine: Engine, seconds: int) -> Iterator[tuple[str, float]]:
    engine.run("-d", "--name", _DATABASE, "bench-debian", "sh", "-c", _POSTGRES)
    address = engine.place(_DATABASE)
    tools = "PATH=$(echo /usr/lib/postgresql/*/bin):$PATH PGUSER=bench;export PGUSER PATH"
    prepare = "until pg_isready -q; do sleep 0.2; done; createdb bench; pgbench -q -i -s 10 bench"
    ready = f"{tools} PGHOST={address};export PGHOST; {prepare}"
    engine.run("--rm", "bench-debian", "sh", "-c", ready)
    for what, flags in (("select only", "-S"), ("read and write", "")):
        command = f"pgbench {flags} -n -c 8 -j 2 -T {seconds} bench"
        outside = engine.run("--rm", "bench-debian", "sh", "-c", f"{tools} PGHOST={address};export PGHOST; {command}")
        inside = engine("exec", _DATABASE, "sh", "-c", f"{tools} PGHOST=127.0.0.1;export PGHOST; {command}")
        yield f"pgbench, {what}, transactions/s", _number(r"tps = ([\d.]+)", outside)
        yield f"pgbench, {what}, over loopback in one container", _number(r"tps = ([\d.]+)", inside)


def wrk(engine: Engine, seconds: int, directory: Path) -> Iterator[tuple[str, float]]:
    for port, user in (("80", "root"), (_HOST_PORT, "nobody")):
        (directory / f"{port}.conf").write_text(_NGINX.format(port=port, user=user))
    mount = ("-v", f"{directory}/80.conf:/n.conf:ro", "-p", f"{_PORT}:80")
    engine.run("-d", "--name", _WEB, *mount, "bench-debian", "nginx", "-c", "/n.conf")
    host = subprocess.Popen(["nginx", "-c", f"{directory}/{_HOST_PORT}.conf"], stderr=subprocess.DEVNULL)
    time.sleep(1)
    try:
        for connections in ("100", "10000"):
            for place, port in (("published", _PORT), ("over loopback on the host", _HOST_PORT)):
                words = ["wrk", "-t", "2", "-c", connections, "-d", str(seconds), f"http://127.0.0.1:{port}/"]
                said = subprocess.run(words, capture_output=True, text=True, check=False).stdout
                errors = re.search(r"Socket errors: (.*)", said)
                name = f"nginx {place}, {connections} connections, requests/s"
                yield name + (f" ({errors[1]})" if errors else ""), _number(r"Requests/sec: +([\d.]+)", said)
    finally:
        host.terminate()


def dns(engine: Engine, seconds: int, directory: Path) -> Iterator[tuple[str, float]]:
    engine.run("-d", "--name", _WEB, "bench-debian", "sleep", "1000")
    (directory / "names").write_text(f"{_WEB} A\n{_WEB}.{_NETWORK} A\n{_WEB} AAAA\n")
    script = f"dnsperf -s $(awk '/^nameserver/{{print $2;exit}}' /etc/resolv.conf) -d /names -l {seconds} -c 4 -T 2 -m "
    for kind in ("udp", "tcp"):
        said = engine.run("--rm", "-v", f"{directory}/names:/names:ro", "bench-debian", "sh", "-c", script + kind)
        yield f"names over {kind}, queries/s", _number(r"Queries per second: +([\d.]+)", said)


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        sys.exit(f"no {pattern} in: {text}")
    return float(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tar", required=True)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--only", default="iperf3,pgbench,wrk,dns")
    parser.add_argument("--engines", default="rootless,podman")
    asked = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # for wrk's connections
    for command in asked.engines.split(","):
        engine = Engine(command)
        with tempfile.TemporaryDirectory() as name, installed(engine, asked.tar):
            directory = Path(name)
            directory.chmod(0o755)
            for kind in asked.only.split(","):
                if kind == "dns" and command != "rootless":
                    continue  # podman 4.3 has no names without aardvark-dns
                engine("rm", "-f", _WEB, check=False)
                measured = {
                    "iperf3": lambda engine=engine: iperf3(engine, asked.seconds),
                    "pgbench": lambda engine=engine: pgbench(engine, asked.seconds),
                    "wrk": lambda engine=engine, directory=directory: wrk(engine, asked.seconds, directory),
                    "dns": lambda engine=engine, directory=directory: dns(engine, asked.seconds, directory),
                }[kind]()
                for what, value in measured:
                    print(f"{command:10} {value:12.0f}  {what}", flush=True)


if __name__ == "__main__":
    main()
