"""Long runs by hand: engines that share a store, and engines that are killed.

    python -m tests.stress.store shared --seconds 600   two engines pull, run, commit, load, remove, prune at random
    python -m tests.stress.store killed --rounds 200    kill -9 of the engine in load, import, commit, rmi, save, pull

As an ordinary user with `rootless`, skopeo and docker-registry on PATH. Exit code 1 where anything but the expected
happened: a complaint that is none of EXPECTED, an image that is listed and cannot be run, a store that `system check`
does not find clean, or something left when everything has been removed."""

from __future__ import annotations

import argparse
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.busybox import busybox_tar
from tests.images.registries import docker_archive, push, registry

EXPECTED = (
    "No such image",
    "is using its referenced image",
    "must be forced",
    "cannot be forced",
    "already in progress",
    "Unable to find image",
    "lost the connection",  # of killed engines
    "broke off",
)
IMAGES = 6


def layer(number: int) -> bytes:
    """A small layer of its own, and one file that all have."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in (
            ("number", str(number).encode()),
            (f"data/{number}", random.Random(number).randbytes(3_000_000)),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


@dataclass
class User:
    """One engine's command line."""

    name: str
    home: Path
    data: Path
    registry: str
    archives: list[Path]
    done: Counter[str] = field(default_factory=Counter)
    complaints: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "ROOTLESS_DATA_ROOT": str(self.data),
            "ROOTLESS_STATE_ROOT": str(self.home / "state"),
            "ROOTLESS_RUNTIME_DIR": str(self.home / "run"),
            "ROOTLESS_CONFIG": str(self.home / "config.toml"),
        }

    def __call__(
        self, *words: str, stdin: Path | None = None, expected: bool = True
    ) -> subprocess.CompletedProcess[str]:
        with open(stdin or os.devnull, "rb") as file:
            done = subprocess.run(
                ["rootless", *words], env=self.environment, stdin=file, capture_output=True, text=True, timeout=120
            )
        self.done[words[0]] += 1
        if done.returncode:
            text = done.stderr.strip()
            known = next((part for part in EXPECTED if part in text), None)
            if known and expected:
                self.complaints[f"{words[0]}: {known}"] += 1
            else:
                self.problems.append(f"{' '.join(words)}: exit code {done.returncode}: {text}")
        return done

    def name_of(self, number: int) -> str:
        return f"{self.registry}/app:{number}"


def actions(user: User, chance: random.Random) -> list[Callable[[], object]]:
    number = chance.randrange(IMAGES)
    name = user.name_of(number)
    made = f"made-{user.name}:{chance.randrange(3)}"
    container = f"c{chance.randrange(10**9)}"

    def run() -> None:
        done = user("run", "--rm", "--pull", "never", "--network", "none", name, "cat", "/number")
        if done.returncode == 0 and done.stdout != str(number):
            user.problems.append(f"{name} is not what it was: {done.stdout!r}")

    def commit() -> None:
        own = f"own-{container}:1"
        without = "--pull", "never", "--network", "none"
        if user("run", "--name", container, *without, name, "sh", "-c", "echo x > /made").returncode == 0:
            user("commit", container, own, expected=False)
            user("rm", container, expected=False)
            done = user("run", "--rm", *without, own, "cat", "/made")
            if done.returncode == 0 and done.stdout != "x\n":
                user.problems.append(f"{own} is not what was committed: {done.stdout!r}")
            user("rmi", own)

    return [
        *[lambda: user("pull", "-q", name, expected=False)] * 3,
        *[run] * 3,
        commit,
        lambda: user("load", stdin=user.archives[number], expected=False),
        lambda: user("import", "-", made, stdin=user.archives[-1], expected=False),
        *[lambda: user("rmi", "-f" if chance.random() < 0.3 else "--no-prune=false", name)] * 2,
        lambda: user("rmi", made),
        lambda: user("image", "prune", "-f", *(["-a"] if chance.random() < 0.5 else []), expected=False),
        lambda: user("tag", name, made),
        lambda: user("images", expected=False),
        lambda: user("save", "-o", str(user.home / f"saved-{threading.get_ident()}"), name),
    ]


@contextmanager
def prepared(names: list[str]) -> Iterator[list[User]]:
    with tempfile.TemporaryDirectory(prefix="stress-", ignore_cleanup_errors=True) as text:
        top = Path(text)
        served = top / "served"
        served.mkdir()
        archives = []
        with registry(served) as address:
            for number in range(IMAGES):
                data = docker_archive(
                    [busybox_tar(), layer(number // 2 + 100), layer(number)], [f"{address}/app:{number}"]
                )
                push(data, f"{address}/app:{number}", top)
                archives.append(top / f"{number}.tar")
                archives[-1].write_bytes(data)
            archives.append(top / "root.tar")
            archives[-1].write_bytes(busybox_tar())
            users = []
            for name in names:
                (top / name).mkdir()
                users.append(User(name, top / name, top / "data", address, archives))
            try:
                yield users
            finally:
                for user in users:
                    subprocess.run(["rootless", "system", "stop"], env=user.environment, capture_output=True)


def finish(users: list[User]) -> int:
    for user in users:
        checked = user("system", "check", expected=False)
        if checked.returncode or "no problems" not in checked.stdout:
            user.problems.append(f"system check: {checked.stdout}")
        for container in user("ps", "-aq").stdout.split():
            user("rm", "-f", container)
    users[0]("image", "prune", "-a", "-f", expected=False)
    kept = ("layers", "trees", "tmp", "images/blobs/sha256")
    end = time.monotonic() + 10  # files are freed in the background
    while left := [path for name in kept for path in (users[0].data / name).iterdir()]:
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    if left:
        users[0].problems.append(f"left: {left}")
    for user in users:
        print(f"{user.name}: {dict(user.done)}\n  refused as expected: {dict(user.complaints)}")
        for problem in user.problems[:20]:
            print(f"  PROBLEM {problem}")
    return 1 if any(user.problems for user in users) else 0


def shared(seconds: float, seed: int) -> int:
    with prepared(["first", "second"]) as users:
        end = time.monotonic() + seconds

        def work(user: User, chance: random.Random) -> None:
            while time.monotonic() < end:
                chance.choice(actions(user, chance))()

        threads = [
            threading.Thread(target=work, args=(user, random.Random(seed * 10 + number)))
            for number, user in enumerate([*users, *users])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return finish(users)


def killed(rounds: int, seed: int) -> int:
    chance = random.Random(seed)
    with prepared(["only"]) as users:
        (user,) = users
        hits = 0
        for number in range(rounds):
            words = ["rootless", "system", "status", "--format", "{{.EnginePid}}"]
            user("images")
            pid = int(subprocess.run(words, env=user.environment, capture_output=True, text=True, check=True).stdout)
            name, made = user.name_of(chance.randrange(IMAGES)), "made:1"
            container = f"c{number}"
            user("run", "--name", container, "--network", "none", name, "sh", "-c", "echo x > /made")
            jobs: list[tuple[list[str], Path | None]] = [
                (["load"], chance.choice(user.archives[:-1])),
                (["import", "-", made], user.archives[-1]),
                (["commit", container, made], None),
                (["rmi", "-f", made], None),
                (["image", "prune", "-a", "-f"], None),
                (["save", "-o", str(user.home / "saved"), name], None),
                (["pull", "-q", name], None),
            ]
            words, stdin = chance.choice(jobs)
            with open(stdin or os.devnull, "rb") as file:
                running = subprocess.Popen(
                    ["rootless", *words],
                    env=user.environment,
                    stdin=file,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                time.sleep(chance.random() * 0.12)
                hits += running.poll() is None
                os.kill(pid, signal.SIGKILL)
                running.wait(60)
            user.done[f"killed in {words[0]}"] += 1
            for image in user("images", "--format", "{{.Repository}}:{{.Tag}}", expected=False).stdout.split():
                if image.startswith((user.registry, "made")):
                    user("run", "--rm", "--pull", "never", "--network", "none", image, "true", expected=False)
            user("rm", "-f", container)
            if number % 10 == 9:
                time.sleep(2)  # an engine tidies up when it has been there for a while
                checked = user("system", "check", expected=False)
                if checked.returncode or "no problems" not in checked.stdout:
                    user.problems.append(f"round {number}, {words}: system check: {checked.stdout}")
        print(f"{hits} of {rounds} kills hit a command at work")
        return finish(users)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("shared", "killed"))
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    if options.what == "shared":
        return shared(options.seconds, options.seed)
    return killed(options.rounds, options.seed)


if __name__ == "__main__":
    sys.exit(main())
