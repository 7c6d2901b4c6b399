"""A real launcher and real containers: busybox over an image served by FUSE, as an ordinary user."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from fuse_overlay import LayerWriter, merge_tree
from rootless.launcher import messages
from rootless.launcher.client import Launcher, LauncherGone, LaunchFailure
from rootless.launcher.spawn import start_launcher
from rootless.runtime import capabilities
from rootless.runtime.spec import DEFAULT_PATH, ContainerSpec, GuestNetwork, ProcessSpec, RootSpec, UnionSpec
from rootless.settings import Settings
from tests.busybox import busybox_tar

pytestmark = pytest.mark.kernel


@contextlib.contextmanager
def launched() -> Iterator[Settings]:
    home = Path(tempfile.mkdtemp(prefix="rootless-launcher-"))
    made = Settings(home / "data", home / "state", home / "run")
    for directory in (made.data_root, made.state_root, made.runtime_dir, home / "image"):
        directory.mkdir(mode=0o700)
    writer = LayerWriter(home / "image")
    writer.write(busybox_tar())
    writer.finish()
    merge_tree([home / "image"], home / "tree")
    start_launcher(made)
    yield made

    async def leave() -> None:
        async with connected(made) as launcher:
            await launcher.request(messages.Shutdown(force=True))

    try:
        trio.run(leave)
    except* (OSError, LauncherGone):
        pass  # it has left already
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with launched() as made:
        yield made


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Launcher]:
    launcher = await Launcher.connect(settings.launcher_socket)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(launcher.run)
        await launcher.request(messages.Hello("test"))
        try:
            with trio.fail_after(30):
                yield launcher
        finally:
            nursery.cancel_scope.cancel()


async def spec(
    settings: Settings, launcher: Launcher, name: str, *args: str, driver: str = "fuse+overlay"
) -> ContainerSpec:
    home = settings.data_root.parent
    directory = settings.state_root / name
    for part in ("upper", "work"):
        (directory / part).mkdir(parents=True, exist_ok=True)
    process = ProcessSpec(args, (f"PATH={DEFAULT_PATH}",), capabilities=capabilities.combine((), ()))
    if driver == "fuse":
        union = UnionSpec("tree", str(home / "tree"), (str(home / "image"),))
        root = RootSpec("", str(directory / "upper"), str(directory / "work"), union=union)
    else:
        mount = messages.MountImage("busybox", "tree", str(home / "tree"), (str(home / "image"),))
        result, _ = await launcher.request(mount)
        root = RootSpec(str(result["path"]), str(directory / "upper"), str(directory / "work"))
    return ContainerSpec(name, "box", root, process)


async def finish(launcher: Launcher, process_id: str, descriptors: list[int]) -> tuple[bytes, int]:
    """Everything the process writes to stdout, and its status."""
    output = b""
    os.set_blocking(descriptors[0], False)
    while True:
        await trio.lowlevel.wait_readable(descriptors[0])
        try:
            data = os.read(descriptors[0], 65536)
        except OSError:
            break
        if not data:
            break
        output += data
    for fd in descriptors:
        os.close(fd)
    async for event in launcher.events:
        if isinstance(event, messages.Exited) and event.process_id == process_id:
            await launcher.request(messages.Forget(process_id))
            return output, event.status
    raise AssertionError("no exit")


def run(
    settings: Settings, name: str, *args: str, driver: str = "fuse+overlay", **changes: object
) -> tuple[bytes, int]:
    async def body() -> tuple[bytes, int]:
        async with connected(settings) as launcher:
            made = await spec(settings, launcher, name, *args, driver=driver)
            process = {key: changes.pop(key) for key in list(changes) if hasattr(made.process, key)}
            made = replace(made, process=replace(made.process, **process), **changes)  # type: ignore[arg-type]
            _, descriptors = await launcher.request(messages.StartContainer(made))
            return await finish(launcher, name, descriptors)

    return trio.run(body)


def test_output_and_status(settings: Settings) -> None:
    assert run(settings, "output", "sh", "-c", "echo hello; exit 7") == (b"hello\n", 7)


def test_it_is_process_one_and_root_with_dockers_capabilities(settings: Settings) -> None:
    script = "echo $$ $(id -u) $(hostname); grep CapEff /proc/self/status; cat /etc/marker"
    output, status = run(settings, "root", "sh", "-c", script)
    assert (output.split(), status) == (b"1 0 box CapEff: 00000000a80425fb as it was".split(), 0)


def test_a_signal_is_a_status(settings: Settings) -> None:
    assert run(settings, "signal", "sh", "-c", "kill -9 $$; exec sleep 100 & wait", init=True)[1] == 137


def test_devices_and_file_systems(settings: Settings) -> None:
    script = "echo x >/dev/null; head -c 3 /dev/zero | wc -c; ls /dev/pts; mount | cut -d' ' -f3 | sort | tr '\\n' ' '"
    output, status = run(settings, "devices", "sh", "-c", script)
    assert status == 0
    assert set(b"/ /proc /dev /dev/pts /dev/shm /dev/mqueue /sys".split()) <= set(output.split())


def test_another_user(settings: Settings) -> None:
    output, status = run(settings, "user", "sh", "-c", "id; grep CapEff /proc/self/status; echo $HOME", user="www")
    if status != 0:
        pytest.fail(output.decode())
    assert output.split()[0] == b"uid=33(www)"
    assert b"0000000000000000" in output


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        ("nope", 127, 'exec: "nope": executable file not found in $PATH'),
        ("/nope", 127, 'exec: "/nope": stat /nope: no such file or directory'),
        ("/etc/not-a-program", 126, 'exec: "/etc/not-a-program": permission denied'),
        ("/etc", 126, 'exec: "/etc": is a directory'),
    ],
)
def test_what_cannot_be_executed(settings: Settings, command: str, code: int, text: str) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        run(settings, "bad" + command.replace("/", "-"), command)
    failure = caught.value.exceptions[0]
    assert isinstance(failure, LaunchFailure)
    assert (failure.exit_code, failure.message) == (code, text)


def test_a_terminal(settings: Settings) -> None:
    output, status = run(settings, "tty", "sh", "-c", "tty; stty size", terminal=True, terminal_size=(33, 77))
    assert (output.split(), status) == ([b"/dev/pts/0", b"33", b"77"], 0)


def test_exec_and_stdio_for_an_engine_that_comes_back(settings: Settings) -> None:
    async def body() -> None:
        async with connected(settings) as launcher:
            made = await spec(settings, launcher, "long", "sh", "-c", "echo early; read x; echo got $x; exit 4")
            made = replace(made, process=replace(made.process, open_stdin=True))
            _, descriptors = await launcher.request(messages.StartContainer(made))
            for fd in descriptors:
                os.close(fd)
        async with connected(settings) as launcher:  # the first engine is gone
            process = replace(made.process, args=("sh", "-c", "echo $$; cat /etc/marker"), open_stdin=False)
            _, descriptors = await launcher.request(messages.StartExec("exec1", "long", process))
            output, status = await finish(launcher, "exec1", descriptors)
            assert status == 0
            assert output.endswith(b"as it was\n")
            assert int(output.split()[0]) > 1
            result, descriptors = await launcher.request(messages.Stdio("long"))
            assert result["names"] == ["stdin", "stdout", "stderr"]
            os.write(descriptors[0], b"word\n")
            output, status = await finish(launcher, "long", descriptors[1:])
            assert (output, status) == (b"early\ngot word\n", 4)
            os.close(descriptors[0])

    trio.run(body)


def test_a_network_device(settings: Settings) -> None:
    async def body() -> None:
        async with connected(settings) as launcher:
            config = {"name": "bridge", "subnet4": "10.99.0.0/24", "gateway4": "10.99.0.1"}
            await launcher.request(messages.StartNetwork("net1", config))
            made = await spec(
                settings, launcher, "net", "sh", "-c", "ip -o -4 addr show eth0; ip route; arping -c 1 10.99.0.1"
            )
            guest = GuestNetwork("net1", "end1", "eth0", "02:42:0a:63:00:02", 1500, "10.99.0.2/24", "10.99.0.1")
            _, descriptors = await launcher.request(messages.StartContainer(replace(made, guest_networks=(guest,))))
            output, _ = await finish(launcher, "net", descriptors)
            assert b"10.99.0.2/24" in output
            assert b"default via 10.99.0.1 dev eth0" in output

    trio.run(body)


def image_servers() -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == os.getuid() and (entry / "comm").read_text() == "rl-image\n":
                    found.add(int(entry.name))
    return found


def test_the_image_server_is_started_again(settings: Settings) -> None:
    async def body() -> None:
        async with connected(settings) as launcher:
            made = await spec(settings, launcher, "reader", "sh", "-c", "read x; sha256sum /var/big")
            made = replace(made, process=replace(made.process, open_stdin=True))
            _, descriptors = await launcher.request(messages.StartContainer(made))
            before: set[int] = set()
            for _ in range(7):  # more often than comes for nothing: it is waited for, never given up
                with trio.fail_after(10):
                    while not (pids := image_servers() - before):
                        await trio.sleep(0.01)
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):  # a server's helper goes with it
                        os.kill(pid, signal.SIGKILL)
                before |= pids
            os.write(descriptors[0], b"\n")
            output, status = await finish(launcher, "reader", descriptors[1:])
            assert status == 0
            assert len(output.split()[0]) == 64

    trio.run(body)


@pytest.mark.parametrize("driver", ["fuse+overlay", "fuse"])
def test_an_index_that_is_cut_short_under_its_server_is_made_anew(driver: str) -> None:
    """The server is killed by SIGBUS at the next read of it."""

    async def body(settings: Settings) -> None:
        async with connected(settings) as launcher:
            made = await spec(settings, launcher, "cut", "sh", "-c", "read x; ls -liR /bin; ls -i /etc", driver=driver)
            made = replace(made, process=replace(made.process, open_stdin=True))
            _, descriptors = await launcher.request(messages.StartContainer(made))
            tree = settings.data_root.parent / "tree"
            os.truncate(tree, 4096)
            os.write(descriptors[0], b"\n")
            output, status = await finish(launcher, "cut", descriptors[1:])
            assert status == 0
            assert b" busybox\n" in output
            assert tree.stat().st_size > 4096

    with launched() as settings:
        trio.run(body, settings)


def test_a_tree_whose_files_are_others_is_removed(settings: Settings) -> None:
    run(settings, "others", "sh", "-c", "mkdir -m 0 /root/d; touch /root/f; chown 33:33 /root/f; chmod 0 /root/f")

    async def body() -> None:
        async with connected(settings) as launcher:
            await launcher.request(messages.RemoveTree(str(settings.state_root / "others")))
            with pytest.raises(LaunchFailure, match="not below"):
                await launcher.request(messages.RemoveTree("/etc"))

    trio.run(body)
    assert not (settings.state_root / "others").exists()


WORK = """
echo changed >> /etc/marker; mkdir /made; echo new > /made/new; ln /made/new /made/linked; mv /made/linked /etc/moved
rm /bin/ls; cat /etc/marker /etc/moved; ls / > /dev/null; stat -c %h /etc/moved
"""


@pytest.mark.parametrize(("first", "then"), [("fuse", "fuse+overlay"), ("fuse+overlay", "fuse"), ("fuse", "fuse")])
def test_a_container_goes_on_with_the_other_driver(settings: Settings, first: str, then: str) -> None:
    name = f"switched-{first}-{then}"
    output, status = run(settings, name, "sh", "-c", WORK, driver=first)
    assert (output, status) == (b"as it was\nchanged\nnew\n2\n", 0)
    look = "cat /etc/marker /etc/moved /made/new; stat -c %h /etc/moved; test -e /bin/ls || echo gone; ls -A /made"
    output, status = run(settings, name, "busybox", "sh", "-c", look, driver=then)
    assert (output, status) == (b"as it was\nchanged\nnew\nnew\n2\ngone\nnew\n", 0)


def test_a_union_whose_server_was_killed_goes_on(settings: Settings) -> None:
    async def body() -> None:
        async with connected(settings) as launcher:
            script = "mkdir /d; echo two > /d/f; mv /d/f /d/g; echo ready; read x; cat /d/g /etc/marker"
            made = await spec(settings, launcher, "killed", "sh", "-c", script, driver="fuse")
            made = replace(made, process=replace(made.process, open_stdin=True))
            _, (stdin, stdout, stderr) = await launcher.request(messages.StartContainer(made))
            assert os.read(stdout, 100) == b"ready\n"
            kill_all("rl-union")
            os.write(stdin, b"go\n")
            os.close(stdin)
            assert await finish(launcher, "killed", [stdout, stderr]) == (b"two\nas it was\n", 0)

    trio.run(body)


def test_what_was_written_is_there_when_the_launcher_has_stopped() -> None:
    """The writer still has the file open, and the kernel what it wrote."""
    size = 64 << 20

    async def body(settings: Settings, before: set[int]) -> None:
        async with connected(settings) as launcher:
            script = (
                f"(head -c {size} /dev/zero; sleep 1000) | cat >/open & "
                f"until [ -e /open ] && [ $(stat -c %s /open) = {size} ]; do :; done; echo ready; sleep 1000"
            )
            made = await spec(settings, launcher, "writer", "sh", "-c", script, driver="fuse")
            _, descriptors = await launcher.request(messages.StartContainer(made))
            await trio.lowlevel.wait_readable(descriptors[0])
            assert os.read(descriptors[0], 100) == b"ready\n"
            (server,) = set(named("rl-union")) - before
            watched = os.pidfd_open(server)
            await launcher.request(messages.Shutdown(force=True))
            await trio.lowlevel.wait_readable(watched)

    with launched() as settings:
        trio.run(body, settings, set(named("rl-union")))
        written = settings.state_root / "writer" / "upper" / "open"
        assert written.stat().st_size == size
        assert written.stat().st_blocks * 512 >= size


def kill_all(name: str) -> None:
    """Every process of ours with this name; others come and go meanwhile."""
    for pid in named(name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def named(name: str) -> list[int]:
    """Every process of ours with this name."""
    found = []
    for path in Path("/proc").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if path.name.isdigit() and (path / "comm").read_text() == f"{name}\n" and path.stat().st_uid == os.getuid():
                found.append(int(path.name))
    return found
