"""One engine for all end-to-end tests, driven through the installed `rootless` as the user who runs the tests.

Everything of it lives in a temporary directory; the engine is stopped at the end and must leave no process behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.busybox import busybox_tar


@dataclass(frozen=True)
class Installation:
    """The command under test and where its state is."""

    command: Path
    home: Path
    environment: dict[str, str]

    @property
    def socket(self) -> Path:
        return self.home / "run" / "docker.sock"

    def __call__(
        self, *args: str, stdin: bytes | None = None, check: int | None = 0, timeout: float = 60, **more: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `rootless ARGS`; `check` is the exit code it must have (None: any)."""
        return self.run([str(self.command), *args], stdin, check, timeout, more)

    def docker(
        self, *args: str, stdin: bytes | None = None, check: int | None = 0, timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the real docker client against our socket."""
        return self.run(["docker", "-H", f"unix://{self.socket}", *args], stdin, check, timeout, {})

    def run(
        self, argv: Sequence[str], stdin: bytes | None, check: int | None, timeout: float, more: dict[str, str]
    ) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            argv,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout,
            env={**self.environment, **more},
        )
        if check is not None and done.returncode != check:
            pytest.fail(f"{argv} exited {done.returncode}, not {check}\n{done.stdout!r}\n{done.stderr.decode()}")
        return done

    def out(self, *args: str, **options: object) -> str:
        """Standard output of `rootless ARGS`, stripped."""
        return self(*args, **options).stdout.decode().strip()  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def rootless() -> Iterator[Installation]:
    """An engine with the image `busybox`, for all tests."""
    with _installation() as installation:
        installation("import", "-c", 'CMD ["/bin/sh"]', "-", "busybox", stdin=busybox_tar())
        yield installation


@pytest.fixture
def fresh() -> Iterator[Installation]:
    """No engine and no state yet, for one test."""
    with _installation() as installation:
        yield installation


@contextlib.contextmanager
def _installation() -> Iterator[Installation]:
    command = Path(sys.executable).parent / "rootless"
    if not command.exists():
        pytest.fail(f"no {command}: install the package first (./tests/run does)")
    if os.getuid() == 0:
        pytest.fail("these tests must run as an ordinary user")
    home = Path(tempfile.mkdtemp(prefix="rootless-e2e-"))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ROOTLESS_", "DOCKER_", "XDG_"))}
    installation = Installation(
        command,
        home,
        {
            **inherited,
            "ROOTLESS_DATA_ROOT": str(home / "data"),
            "ROOTLESS_STATE_ROOT": str(home / "state"),
            "ROOTLESS_RUNTIME_DIR": str(home / "run"),
            "ROOTLESS_CONFIG": str(home / "config.toml"),
        },
    )
    try:
        yield installation
    finally:
        installation("system", "stop", check=None)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def name(request: pytest.FixtureRequest, rootless: Installation) -> Iterator[str]:
    """A container name of this test's own; whatever has it is removed afterwards."""
    unique = "e2e-" + "".join(c if c.isalnum() else "-" for c in request.node.name)[:60]
    yield unique
    rootless("rm", "-f", "-v", unique, check=None)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
