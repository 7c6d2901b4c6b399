"""The real docker client over our socket."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from tests.e2e.conftest import Installation

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.kernel,
    pytest.mark.skipif(
        shutil.which("docker") is None, reason="NO DOCKER CLIENT ON PATH: docker compatibility untested"
    ),
]


def test_run_passes_output_and_exit_code(rootless: Installation) -> None:
    done = rootless.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7", check=7)
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_a_missing_command_is_127(rootless: Installation) -> None:
    done = rootless.docker("run", "--rm", "busybox", "no-such-command", check=127)
    assert b'exec: "no-such-command": executable file not found in $PATH' in done.stderr


def test_the_life_of_a_container(rootless: Installation, name: str) -> None:
    script = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.1; done"
    rootless.docker("run", "-d", "--name", name, "busybox", "sh", "-c", script)
    assert name in rootless.docker("ps").stdout.decode()
    assert rootless.docker("exec", name, "cat", "/etc/marker").stdout == b"as it was\n"
    logs = subprocess.Popen(
        ["docker", "-H", f"unix://{rootless.socket}", "logs", "-f", name],
        stdout=subprocess.PIPE,
        env=rootless.environment,
    )
    assert logs.stdout
    assert logs.stdout.readline() == b"line 0\n"
    rootless.docker("stop", "-t", "0", name)
    logs.communicate(timeout=30)
    assert logs.returncode == 0
    inspected = json.loads(rootless.docker("inspect", name).stdout)[0]
    assert inspected["State"]["Status"] == "exited"
    assert inspected["State"]["ExitCode"] == 137
    rootless.docker("rm", name)
    assert b"No such" in rootless.docker("inspect", name, check=1).stderr


def test_standard_input(rootless: Installation) -> None:
    data = b"0123456789" * 100_000
    assert rootless.docker("run", "-i", "--rm", "busybox", "cat", stdin=data).stdout == data


def test_images(rootless: Installation) -> None:
    listed = [json.loads(line) for line in rootless.docker("images", "--format", "json").stdout.splitlines()]
    assert any(image["Repository"] == "busybox" and image["Tag"] == "latest" for image in listed)
    rootless.docker("tag", "busybox", "other:1")
    assert b"Untagged: other:1" in rootless.docker("rmi", "other:1").stdout
    assert b"No such image" in rootless.docker("rmi", "other:1", check=1).stderr


def test_info_and_version(rootless: Installation) -> None:
    assert rootless.docker("version", "--format", "{{.Server.APIVersion}}").stdout.strip() == b"1.47"
    assert rootless.docker("info", "--format", "{{.Driver}}").stdout.strip()


@pytest.mark.parametrize("option", ["--network=nosuch", "--network=container:nosuch", "--link=nosuch"])
def test_what_there_is_not_to_join_is_not_taken_for_a_missing_image(rootless: Installation, option: str) -> None:
    said = rootless.docker("run", "--rm", option, "busybox", "true", check=125).stderr.decode()
    assert "nosuch" in said
    assert "Unable to find image" not in said
