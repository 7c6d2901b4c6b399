"""What a container sees and what its caller gets, through the command line."""

from __future__ import annotations

import os
import pty
import select
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Installation

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]


def test_output_errors_and_exit_code_pass_through(rootless: Installation) -> None:
    done = rootless("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7", check=7)
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_inside_it_is_root_with_a_first_process_and_its_own_names(rootless: Installation) -> None:
    script = "id -u; echo $$; hostname; cat /proc/self/cgroup >/dev/null; ls /proc | grep -c '^[0-9]'"
    uid, pid, hostname, processes = rootless.out(
        "run", "--rm", "--hostname", "box", "busybox", "sh", "-c", script
    ).split()
    assert (uid, pid, hostname) == ("0", "1", "box")
    assert int(processes) <= 4


def test_on_the_host_the_process_is_the_users(rootless: Installation, name: str) -> None:
    rootless("run", "-d", "--name", name, "busybox", "sleep", "1000")
    pid = int(rootless.out("inspect", "-f", "{{.State.Pid}}", name))
    assert pid > 1
    assert Path(f"/proc/{pid}").stat().st_uid == os.getuid()
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\x00"


def test_changes_stay_in_the_container_that_made_them(rootless: Installation, name: str) -> None:
    rootless("run", "-d", "--name", name, "busybox", "sh", "-c", "echo changed > /etc/marker; rm -r /home; sleep 1000")
    assert rootless.out("exec", name, "cat", "/etc/marker") == "changed"
    script = "cat /etc/marker; ls -d /home; ps -o comm | grep -c '^sleep'"
    assert rootless.out("run", "--rm", "busybox", "sh", "-c", script, check=1).split("\n") == [
        "as it was",
        "/home",
        "0",
    ]


def test_standard_input_reaches_the_command(rootless: Installation) -> None:
    data = os.urandom(3 << 20)
    done = rootless("run", "-i", "--rm", "busybox", "cat", stdin=data)
    assert done.stdout == data


def test_environment_directory_and_user(rootless: Installation, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# comment\nFROM_FILE=1\nPASSED\n")
    args = [
        "run",
        "--rm",
        "-e",
        "A=b c",
        "--env-file",
        str(tmp_path / "env"),
        "-w",
        "/made/here",
        "-u",
        "www",
        "busybox",
    ]
    out = rootless.out(*args, "sh", "-c", 'echo "$A" $FROM_FILE $PASSED $PWD $(id -u):$(id -g) $HOME', PASSED="yes")
    assert out == "b c 1 yes /made/here 33:33 /home"


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["busybox", "no-such-command"], 127, 'exec: "no-such-command": executable file not found in $PATH'),
        (["busybox", "/etc/not-a-program"], 126, "permission denied"),
        (["busybox", "/no/such"], 127, "no such file or directory"),
        (["--no-such-flag", "busybox"], 125, "unknown flag: --no-such-flag"),
        (["-u", "nobody-here", "busybox", "true"], 125, "unable to find user nobody-here"),
        (["localhost:1/none:none", "true"], 125, "localhost:1"),
        (["-p", "70000:80", "busybox", "true"], 125, "70000"),
        (["-v", "relative/../x:y", "busybox", "true"], 125, ""),
    ],
)
def test_what_cannot_run_says_why_and_leaves_nothing(
    rootless: Installation, args: list[str], code: int, text: str
) -> None:
    before = rootless.out("ps", "-aq")
    done = rootless("run", "--rm", *args, check=code)
    assert text in done.stderr.decode()
    assert done.stdout == b""
    assert rootless.out("ps", "-aq") == before


def test_a_name_in_use_is_refused(rootless: Installation, name: str) -> None:
    rootless("create", "--name", name, "busybox")
    done = rootless("run", "--name", name, "busybox", "true", check=125)
    assert f'The container name "/{name}" is already in use' in done.stderr.decode()


def test_volumes_mounts_and_tmpfs(rootless: Installation, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host")
    script = "cat /v/file; echo made > /v/new; touch /ro/x 2>/dev/null || echo read-only; stat -f -c %T /scratch"
    args = ["run", "--rm", "-v", f"{tmp_path}:/v", "--mount", f"type=bind,source={tmp_path},target=/ro,readonly"]
    out = rootless.out(*args, "--tmpfs", "/scratch", "busybox", "sh", "-c", script)
    assert out == "from the hostread-only\ntmpfs"
    made = tmp_path / "new"
    assert (made.read_text(), made.stat().st_uid) == ("made\n", os.getuid())


def test_a_read_only_root(rootless: Installation) -> None:
    rootless("run", "--rm", "--read-only", "busybox", "touch", "/x", check=1)
    rootless("run", "--rm", "--read-only", "--tmpfs", "/tmp", "busybox", "touch", "/tmp/x")


def test_the_capabilities_are_dockers_and_paths_are_masked(rootless: Installation) -> None:
    script = "grep -E '^CapEff|^NoNew' /proc/self/status; wc -c </proc/keys; mount -t tmpfs x /mnt"
    out = rootless("run", "--rm", "--security-opt", "no-new-privileges", "busybox", "sh", "-c", script, check=None)
    assert out.returncode != 0
    assert out.stdout.decode().split() == ["CapEff:", "00000000a80425fb", "NoNewPrivs:", "1", "0"]


def test_detached_logs_wait_and_removal(rootless: Installation, name: str) -> None:
    made = rootless.out("run", "-d", "--name", name, "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; done; exit 3")
    assert len(made) == 64
    assert rootless.out("wait", name) == "3"
    assert rootless.out("logs", name) == "1\n2\n3"
    assert rootless.out("logs", "--tail", "1", name) == "3"
    assert "Exited (3)" in rootless.out("ps", "-a", "--filter", f"name={name}", "--format", "{{.Status}}")
    rootless("rm", name)
    assert "No such container" in rootless("rm", name, check=1).stderr.decode()
    forced = rootless("rm", "-f", name)
    assert (forced.stdout, b"No such container" in forced.stderr) == (b"", True)


def test_logs_follow_until_the_end(rootless: Installation, name: str) -> None:
    rootless("run", "-d", "--name", name, "-i", "busybox", "sh", "-c", "echo first; read line; echo last")
    follow = subprocess.Popen([rootless.command, "logs", "-f", name], stdout=subprocess.PIPE, env=rootless.environment)
    assert follow.stdout
    assert follow.stdout.readline() == b"first\n"
    rootless("attach", name, stdin=b"go\n")
    assert follow.communicate(timeout=30)[0] == b"last\n"


def test_stop_is_the_stop_signal_then_the_kill(rootless: Installation, name: str) -> None:
    trap = "trap 'echo got; exit 5' USR1; while :; do sleep 0.05; done"
    rootless("run", "-d", "--name", name, "--stop-signal", "USR1", "busybox", "sh", "-c", trap)
    rootless("stop", name)
    assert rootless.out("inspect", "--format", "{{.State.ExitCode}}", name) == "5"
    rootless("start", name)
    rootless("kill", name)
    assert rootless.out("wait", name) == "137"


def test_start_attached_and_restart(rootless: Installation, name: str) -> None:
    rootless("create", "--name", name, "busybox", "sh", "-c", "echo again; cat /kept 2>/dev/null; echo x > /kept")
    assert rootless.out("start", "-a", name) == "again"
    assert rootless.out("start", "-a", name) == "again\nx"


def test_exec_into_a_running_container(rootless: Installation, name: str) -> None:
    rootless("run", "-d", "--name", name, "-e", "KEPT=1", "busybox", "sleep", "1000")
    assert rootless.out("exec", "-e", "A=2", "-w", "/etc", name, "sh", "-c", "echo $KEPT $A $PWD") == "1 2 /etc"
    assert rootless.out("exec", "-u", "33:33", name, "id", "-u") == "33"
    assert rootless("exec", "-i", name, "cat", stdin=b"through").stdout == b"through"
    rootless("exec", name, "sh", "-c", "exit 9", check=9)
    assert "executable file not found" in rootless("exec", name, "nope", check=127).stderr.decode()


def test_init_reaps_and_forwards(rootless: Installation, name: str) -> None:
    rootless(
        "run", "-d", "--init", "--name", name, "busybox", "sh", "-c", "trap 'exit 4' TERM; while :; do sleep 0.05; done"
    )
    rootless("stop", name)
    assert rootless.out("inspect", "--format", "{{.State.ExitCode}}", name) == "4"


def test_a_container_with_an_init_is_entered_as_any_other(rootless: Installation, name: str, tmp_path: Path) -> None:
    """Nobody may look at process 1 there: it is an interpreter of ours."""
    rootless("run", "-d", "--init", "--name", name, "busybox", "sleep", "1000")
    rootless("network", "create", f"{name}-net")
    try:
        assert rootless.out("exec", name, "cat", "/proc/2/comm") == "sleep"
        rootless("exec", name, "readlink", "/proc/1/exe", check=1)
        (tmp_path / "there").write_text("copied")
        rootless("cp", str(tmp_path / "there"), f"{name}:/there")
        assert rootless.out("exec", name, "cat", "/there") == "copied"
        assert rootless.out("run", "--rm", "--network", f"container:{name}", "busybox", "echo", "joined") == "joined"
        rootless("network", "connect", f"{name}-net", name)
        assert "eth1" in rootless.out("exec", name, "ls", "/sys/class/net")
        assert [line.split()[-2:] for line in rootless.out("top", name).splitlines()[1:]][-1] == ["sleep", "1000"]
        assert len(rootless.out("top", name).splitlines()) == 3
    finally:
        rootless("rm", "-f", name)
        rootless("network", "rm", f"{name}-net")


def read_until(fd: int, wanted: bytes, seconds: float = 20) -> bytes:
    seen = b""
    end = time.monotonic() + seconds
    while wanted not in seen:
        if not select.select([fd], [], [], max(0, end - time.monotonic()))[0]:
            pytest.fail(f"no {wanted!r} in {seen!r}")
        try:
            got = os.read(fd, 65536)
        except OSError:
            got = b""
        if not got:
            pytest.fail(f"ended without {wanted!r}: {seen!r}")
        seen += got
    return seen


@pytest.mark.parametrize("client", ["rootless", "docker"])
def test_a_terminal(rootless: Installation, name: str, client: str) -> None:
    command = [str(rootless.command)] if client == "rootless" else ["docker", "-H", f"unix://{rootless.socket}"]
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe(command[0], [*command, "run", "-it", "--name", name, "busybox", "sh"], rootless.environment)
    read_until(fd, b"# ")
    os.write(fd, b"tty; stty size >/dev/null && echo si''zed\n")
    assert b"/dev/pts/0" in read_until(fd, b"sized")
    os.write(fd, b"\x10\x11")  # detach: ctrl-p ctrl-q
    while select.select([fd], [], [], 10)[0]:
        try:
            if not os.read(fd, 4096):
                break
        except OSError:
            break
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert rootless.out("inspect", "-f", "{{.State.Running}}", name) == "true"


def test_a_signal_to_the_command_reaches_the_container(rootless: Installation, name: str) -> None:
    script = "trap 'echo caught; exit 6' TERM; echo ready; while :; do sleep 0.05; done"
    running = subprocess.Popen(
        [rootless.command, "run", "--rm", "--name", name, "busybox", "sh", "-c", script],
        stdout=subprocess.PIPE,
        env=rootless.environment,
    )
    assert running.stdout
    assert running.stdout.readline() == b"ready\n"
    running.send_signal(signal.SIGTERM)
    assert running.communicate(timeout=30)[0] == b"caught\n"
    assert running.returncode == 6


def serve_once(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(answer + connection.recv(100))


def test_the_network_out_and_in(rootless: Installation, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    rootless("run", "-d", "--name", name, "-p", f"127.0.0.1:{port}:7", "busybox", "nc", "-ll", "-p", "7", "-e", "cat")
    deadline = time.monotonic() + 10
    got = b""
    while got != b"hello" and time.monotonic() < deadline:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            try:
                client.sendall(b"hello")
                client.shutdown(socket.SHUT_WR)
                got = b"".join(iter(lambda client=client: client.recv(100), b""))  # type: ignore[misc]
            except ConnectionError:
                got = b""
    assert got == b"hello"
    done = rootless("run", "--rm", "-p", f"127.0.0.1:{port}:8", "busybox", "true", check=125)
    assert "port is already allocated" in done.stderr.decode()


def test_the_host_network_is_the_hosts(rootless: Installation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve_once, args=(listener, b"host says "), daemon=True).start()
        port = str(listener.getsockname()[1])
        script = f"echo hi | nc 127.0.0.1 {port}"
        assert rootless.out("run", "--rm", "--network", "host", "busybox", "sh", "-c", script) == "host says hi"


def test_no_network_is_loopback_only(rootless: Installation) -> None:
    out = rootless.out("run", "--rm", "--network", "none", "busybox", "sh", "-c", "ls /sys/class/net; ip -o addr")
    assert out.split()[0] == "lo"
    assert "eth0" not in out
    assert "eth0" in rootless.out("run", "--rm", "busybox", "ls", "/sys/class/net")


def test_the_host_image(rootless: Installation) -> None:
    out = rootless.out(
        "run", "--rm", "host", "sh", "-c", "id -u; cat /etc/os-release >/dev/null && echo > /etc/new && ls /etc/new"
    )
    assert out == "0\n/etc/new"
    assert not Path("/etc/new").exists()
