"""The pure parts of the runtime, by tables."""

from __future__ import annotations

import errno

import pytest

from rootless.runtime import accounts, capabilities, plan, steps
from rootless.runtime.perform import Performer, StepFailed
from rootless.runtime.spec import ContainerSpec, MountSpec, ProcessSpec, RootSpec
from rootless.syscalls import Recorder

PASSWD = "root:x:0:0:root:/root:/bin/sh\nbroken line\nwww:x:33:34::/home:/bin/sh\nhuge:x:99999999999:1::/:\n"
GROUP = "root:x:0:\nwww:x:34:\nmore:x:40:www,other\nnumber:x:x:www\n"


@pytest.mark.parametrize(
    ("user", "more", "wanted"),
    [
        ("", (), (0, 0, (0,), "/root")),
        ("www", (), (33, 34, (34, 40), "/home")),
        ("33", (), (33, 34, (34, 40), "/home")),
        ("www:root", (), (33, 0, (0,), "/home")),
        ("1000", (), (1000, 0, (0,), "/")),
        ("1000:1001", ("more", "7"), (1000, 1001, (7, 40, 1001), "/")),
    ],
)
def test_the_user_is_looked_up_as_docker_does(user: str, more: tuple[str, ...], wanted: object) -> None:
    found = accounts.resolve(user, more, PASSWD, GROUP)
    assert (found.uid, found.gid, found.groups, found.home) == wanted


@pytest.mark.parametrize(
    ("user", "more"), [("nobody", ()), ("huge", ()), ("www:none", ()), ("", ("none",)), ("-1", ())]
)
def test_an_unknown_user_is_named(user: str, more: tuple[str, ...]) -> None:
    with pytest.raises(accounts.UnknownUser, match="unable to find"):
        accounts.resolve(user, more, PASSWD, GROUP)


@pytest.mark.parametrize(
    ("add", "drop", "wanted"),
    [
        ((), (), set(capabilities.DEFAULT)),
        (("sys_admin",), (), {*capabilities.DEFAULT, "SYS_ADMIN"}),
        ((), ("ALL",), set()),
        (("NET_ADMIN",), ("all",), {"NET_ADMIN"}),
        (("ALL",), ("CAP_CHOWN",), {*capabilities.NAMES} - {"CHOWN"}),
    ],
)
def test_capabilities_are_added_and_dropped(add: tuple[str, ...], drop: tuple[str, ...], wanted: set[str]) -> None:
    assert set(capabilities.combine(add, drop)) == wanted


def test_the_default_capabilities_are_dockers_mask() -> None:
    assert capabilities.mask(capabilities.DEFAULT) == 0xA80425FB


def container(**changes: object) -> ContainerSpec:
    process = ProcessSpec(("true",))
    return ContainerSpec("id", "box", RootSpec("/lower", "/upper", "/work"), process, **changes)  # type: ignore[arg-type]


def test_the_order_of_the_steps() -> None:
    spec = container(
        mounts=(MountSpec("bind", "/a/b", "/x", ("ro",)), MountSpec("tmpfs", "/a", options=("size=1m",))),
        readonly_paths=("/proc/sys",),
        sysctls=(("net.ipv4.ip_forward", "1"),),
    )
    made = plan.plan(spec, tty_group_mapped=True)
    kinds = [type(step).__name__ for step in made]
    assert kinds.index("Loopback") < kinds.index("RootOverlay") < kinds.index("Sysctl") < kinds.index("ReadOnly")
    assert kinds[-2:] == ["Pivot", "Names"]
    targets = [getattr(step, "target", "") for step in made]
    assert targets.index("/a") < targets.index("/a/b")


def test_host_namespaces_bind_what_cannot_be_mounted() -> None:
    made = plan.plan(container(network="host", pid="host", ipc="host", uts="host"), tty_group_mapped=False)
    assert steps.Bind("/proc", "/proc") in made
    assert not any(isinstance(step, (steps.Loopback, steps.Names)) for step in made)
    assert all("gid=5" not in getattr(step, "data", "") for step in made)


def test_a_failure_names_its_step() -> None:
    recorder = Recorder(failures={"mount": errno.EPERM})
    performer = Performer(recorder, "/nowhere", lambda network: None, lambda: None, lambda text: None)
    with pytest.raises(StepFailed, match="mount the root"):
        performer.perform(plan.plan(container(), tty_group_mapped=True))
    assert recorder.calls[0][0] == "mount"
