"""What a create request becomes: tables of what is right and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from rootless.engine import creation
from rootless.model.errors import InvalidParameter

IMAGE = {"Cmd": ["sh"], "Env": ["PATH=/bin", "A=1"], "WorkingDir": "/w", "Labels": {"l": "image"}}


def record(body: dict[str, Any], image: dict[str, Any] = IMAGE) -> Any:
    made, _ = creation.make_record(
        {"Image": "i", **body},
        image,
        container_id="c" * 64,
        name="n",
        created="2026-01-01T00:00:00Z",
        image_id="sha256:" + "0" * 64,
        volume_path=lambda name: f"/volumes/{name}/_data",
        new_volume=lambda: "fresh",
    )
    return made


@pytest.mark.parametrize(
    ("image", "body", "args"),
    [
        ({"Cmd": ["sh"]}, {}, ("sh",)),
        ({"Cmd": ["sh"]}, {"Cmd": ["ls", "-l"]}, ("ls", "-l")),
        ({"Entrypoint": ["e"], "Cmd": ["c"]}, {}, ("e", "c")),
        ({"Entrypoint": ["e"], "Cmd": ["c"]}, {"Cmd": ["d"]}, ("e", "d")),
        ({"Entrypoint": ["e"], "Cmd": ["c"]}, {"Entrypoint": ["f"]}, ("f",)),
        ({"Entrypoint": ["e"], "Cmd": ["c"]}, {"Entrypoint": [], "Cmd": ["g"]}, ("g",)),
    ],
)
def test_the_command_is_the_images_unless_another_is_asked_for(
    image: dict[str, Any], body: dict[str, Any], args: tuple[str, ...]
) -> None:
    assert record(body, image).args == args


def test_the_environment_is_merged_and_a_bare_name_removes() -> None:
    assert record({"Env": ["A=2", "B=3"]}).config["Env"] == ["PATH=/bin", "A=2", "B=3"]
    assert record({"Env": ["A"]}).config["Env"] == ["PATH=/bin"]


def test_labels_are_merged_and_the_host_name_is_the_id() -> None:
    made = record({"Labels": {"mine": "1"}})
    assert made.config["Labels"] == {"l": "image", "mine": "1"}
    assert made.config["Hostname"] == "c" * 12


@pytest.mark.parametrize(
    ("body", "image", "words"),
    [
        ({}, {}, "no command specified"),
        ({"Cmd": "not a list\0"}, IMAGE, "NUL"),
        ({"Env": [1]}, IMAGE, "Env must be a list of strings"),
        ({"WorkingDir": "relative"}, IMAGE, "absolute path"),
        ({"Hostname": "no spaces"}, IMAGE, "invalid hostname"),
        ({"ExposedPorts": {"x/tcp": {}}}, IMAGE, "invalid port"),
        ({"HostConfig": {"CapAdd": ["NOPE"]}}, IMAGE, "NOPE"),
        ({"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "70000"}]}}}, IMAGE, "70000"),
        ({"HostConfig": {"SecurityOpt": ["nonsense"]}}, IMAGE, "security-opt"),
        ({"HostConfig": {"RestartPolicy": {"Name": "often"}}}, IMAGE, "often"),
        ({"HostConfig": {"RestartPolicy": {"Name": "always"}, "AutoRemove": True}}, IMAGE, "AutoRemove"),
        ({"HostConfig": {"Binds": ["/a:relative"]}}, IMAGE, "must be absolute"),
        ({"HostConfig": {"Binds": ["/a:/"]}}, IMAGE, "can't be '/'"),
        ({"HostConfig": {"Binds": ["/a:/b:bad"]}}, IMAGE, "invalid mode"),
        ({"HostConfig": {"Binds": ["/a:/b", "/c:/b"]}}, IMAGE, "Duplicate mount point"),
        ({"HostConfig": {"Binds": ["../a:/b"]}}, IMAGE, "invalid characters for a local volume name"),
        ({"HostConfig": {"Mounts": [{"Type": "bind", "Source": "a", "Target": "/b"}]}}, IMAGE, "must be absolute"),
        ({"HostConfig": {"Mounts": [{"Type": "odd", "Target": "/b"}]}}, IMAGE, "mount type unknown"),
        ({"HostConfig": {"PidMode": "odd"}}, IMAGE, "invalid PID mode: odd"),
        ({"HostConfig": {"IpcMode": "container:"}}, IMAGE, "invalid IPC mode: container:"),
        ({"HostConfig": {"UTSMode": "private"}}, IMAGE, "invalid UTS mode: private"),
        ({"HostConfig": {"UsernsMode": 1}}, IMAGE, "invalid USER mode: 1"),
        ({"HostConfig": "text"}, IMAGE, "HostConfig must be an object"),
    ],
)
def test_what_is_wrong_is_refused_by_name(body: dict[str, Any], image: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidParameter, match=re.escape(words)):
        record(body, image)


def test_mount_points_of_every_kind() -> None:
    made = record(
        {
            "Volumes": {"/anonymous": {}},
            "HostConfig": {
                "Binds": ["/host/:/bind:ro", "named:/named", "/plain"],
                "Tmpfs": {"/tmp": "size=64m"},
                "Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 4096, "Mode": 0o700}}],
            },
        }
    )
    rows = {m["Destination"]: (m["Type"], m["Source"], m["Mode"], m["RW"]) for m in made.mounts}
    assert rows == {
        "/bind": ("bind", "/host", "ro", False),
        "/named": ("volume", "/volumes/named/_data", "z", True),
        "/plain": ("volume", "/volumes/fresh/_data", "z", True),
        "/tmp": ("tmpfs", "", "size=64m", True),
        "/t": ("tmpfs", "", "size=4096,mode=700", True),
        "/anonymous": ("volume", "/volumes/fresh/_data", "", True),
    }


def test_what_is_not_enforced_is_said() -> None:
    modes = {"PidMode": "container:other", "IpcMode": "shareable", "UTSMode": "host", "CgroupnsMode": "private"}
    asked = {"HostConfig": {"Memory": 1 << 20, "PidsLimit": -1, "RestartPolicy": {"Name": "always"}, **modes}}
    _, warnings = creation.make_record(
        {"Image": "i", **asked},
        IMAGE,
        container_id="c" * 64,
        name="n",
        created="",
        image_id="",
        volume_path=str,
        new_volume=str,
    )
    assert [text.partition(":")[0] for text in warnings] == ["Memory", "PidMode", "UTSMode", "RestartPolicy"]


@pytest.mark.parametrize(
    ("mode", "warnings"),
    [("host", ["Published ports are discarded when using host network mode"]), ("bridge", []), ("none", [])],
)
def test_ports_published_with_the_hosts_network_are_warned_of(mode: str, warnings: list[str]) -> None:
    asked = {"NetworkMode": mode, "PortBindings": {"80/tcp": [{"HostPort": "8080"}]}}
    assert creation.warnings_of(creation.host_config_of({"HostConfig": asked})) == warnings


@pytest.mark.parametrize("name", ["a", "-ab", "a b", "ä1", "a/b", ""])
def test_names_that_are_not(name: str) -> None:
    with pytest.raises(InvalidParameter, match="Invalid container name"):
        creation.check_name(name)
