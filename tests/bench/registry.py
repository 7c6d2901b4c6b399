"""Pulls beside podman's and skopeo's, from a docker-registry on loopback, in one run:

    python -m tests.bench.registry --tar debian.tar [--rounds N] [--big | --lazy] [--podman WORDS…]

As an ordinary user with `rootless`, `podman`, `skopeo` and `docker-registry` on PATH. FILE is the tar of a Debian tree.
--big measures an image of ten layers and 2 GB instead; --lazy the first run with `--pull lazy` beside a whole pull,
both ours, over a link of 100 Mbit/s and 50 ms. Prints times, peak memory (resident, of the process that does the
work) and the room on disk."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import random
import shlex
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rootless.images.packing import pack
from tests.images.registries import docker_archive, registry

LAYERS, LAYER_NOISE_BYTES = 10, 30_000_000
Row = tuple[str, dict[str, float]]


def layout(directory: Path, layers: list[Path]) -> None:
    """An OCI image layout of tars, packed."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> dict[str, object]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"digest": f"sha256:{name}", "size": len(data)}

    rows, diff_ids = [], []
    for tar in layers:
        with open(tar, "rb") as file:
            diff_ids.append(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
        with open(blobs / "new", "wb") as out:
            digest, size = pack(tar, out, lambda count: None)
        (blobs / "new").rename(blobs / digest.removeprefix("sha256:"))
        rows.append({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size})
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["true"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    kind = {"mediaType": "application/vnd.oci.image.config.v1+json"}
    manifest = {"schemaVersion": 2, "config": {**kind, **put(json.dumps(config).encode())}, "layers": rows}
    described = {"mediaType": "application/vnd.oci.image.manifest.v1+json", **put(json.dumps(manifest).encode())}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def big_layers(tar: Path, directory: Path) -> list[Path]:
    """The Debian tree ten times, each below a directory of its own and with noise, which does not compress."""
    made = []
    for number in range(LAYERS):
        path = directory / f"layer{number}.tar"
        with tarfile.open(tar) as source, tarfile.open(path, "w") as target:
            for member in source:
                content = source.extractfile(member) if member.isreg() else None
                if number:
                    member.name = f"copy{number}/{member.name}"
                    if member.islnk():
                        member.linkname = f"copy{number}/{member.linkname}"
                target.addfile(member, content)
            noise = tarfile.TarInfo(f"noise{number}")
            noise.size = LAYER_NOISE_BYTES
            target.addfile(noise, io.BytesIO(random.Random(number).randbytes(noise.size)))
        made.append(path)
    return made


def prepare(name: str, tar: Path, home: Path, address: str) -> None:
    """Put the image into the registry. In a process of its own: a program that is started from one counts the memory of
    that as its own peak (getrusage(2), ru_maxrss lives through execve)."""
    layers = big_layers(tar, home) if name == "big" else [tar]
    layout(home / "layout", layers)
    push = ["skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false"]
    subprocess.run([*push, f"oci:{home}/layout", f"docker://{address}/{name}:1"], check=True)
    for path in (*(layers if name == "big" else ()), home / "layout"):
        subprocess.run(["rm", "-rf", str(path)], check=True)


def timed(words: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """(seconds, peak megabytes of it or of a child that it waited for)."""
    before = time.perf_counter()
    process = subprocess.Popen(
        words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    complaint = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    taken = time.perf_counter() - before
    if status:
        raise SystemExit(f"{shlex.join(words)}: {complaint}")
    return taken, usage.ru_maxrss / 1024


def engine_pid(environment: dict[str, str]) -> int:
    """Of an engine that is started where there is none."""
    subprocess.run(["rootless", "system", "start"], env=environment, check=True, capture_output=True)
    lock = Path(environment["ROOTLESS_STATE_ROOT"]) / "engine.lock"
    return int(lock.read_text().split()[0])


def peak_of(pid: int) -> float:
    """Megabytes since `reset_peak`."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) / 1024


def reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def disk(path: Path, inside: list[str]) -> float:
    """Megabytes on disk; what belongs to subordinate ids is counted in their user namespace."""
    done = subprocess.run([*inside, "du", "-sm", str(path)], capture_output=True, text=True)
    return float(done.stdout.split()[0])


class Sides:
    """Both with stores of their own in one temporary directory."""

    def __init__(self, home: Path, podman: str, image: str) -> None:
        self.environment = {
            **os.environ,
            "ROOTLESS_DATA_ROOT": f"{home}/data",
            "ROOTLESS_STATE_ROOT": f"{home}/state",
            "ROOTLESS_RUNTIME_DIR": f"{home}/run",
        }
        self.home = home
        self.podman = [*shlex.split(podman), "--storage-driver=overlay", f"--root={home}/podman"]
        self.image = image

    def ours(self, *words: str) -> float:
        return timed(["rootless", *words], self.environment)[0]

    def theirs(self, *words: str) -> tuple[float, float]:
        return timed([*self.podman, *words], self.environment)

    def forget(self) -> None:
        for words in (["rootless", "rmi", "-f", self.image], [*self.podman, "rmi", "-f", self.image]):
            subprocess.run(words, env=self.environment, capture_output=True)

    def measure(self, rounds: int) -> list[Row]:
        pulls: dict[str, list[float]] = {name: [] for name in ("rootless", "podman", "skopeo", "rmi", "rmi podman")}
        peaks: dict[str, list[float]] = {"rootless": [], "podman": [], "skopeo": []}
        first: dict[str, list[float]] = {"rootless": [], "podman": []}
        room = {}
        pid = engine_pid(self.environment)
        for number in range(rounds + 1):
            self.forget()
            reset_peak(pid)
            taken = self.ours("pull", "-q", self.image)
            peak = peak_of(pid)
            theirs, their_peak = self.theirs("pull", "-q", "--tls-verify=false", self.image)
            target = self.home / "skopeo"
            copy = ["skopeo", "copy", "-q", "--insecure-policy", "--src-tls-verify=false", f"docker://{self.image}"]
            skopeo, skopeo_peak = timed([*copy, f"dir:{target}"], self.environment)
            room = {
                "rootless": disk(self.home / "data", []),
                "podman": disk(self.home / "podman", ["podman", "unshare"]),
                "skopeo": disk(target, []),
            }
            subprocess.run(["rm", "-rf", str(target)], check=True)
            removed, their_removal = self.ours("rmi", self.image), self.theirs("rmi", self.image)[0]
            if number or not rounds:  # the first round warms caches
                for name, value in zip(pulls, (taken, theirs, skopeo, removed, their_removal), strict=True):
                    pulls[name].append(value)
                for name, value in zip(peaks, (peak, their_peak, skopeo_peak), strict=True):
                    peaks[name].append(value)
            run = self.ours("run", "--rm", "-q", self.image, "true")
            their_run, _ = self.theirs("run", "--rm", "-q", "--tls-verify=false", self.image, "true")
            if number or not rounds:
                first["rootless"].append(run)
                first["podman"].append(their_run)
        middle: Callable[[list[float]], float] = statistics.median
        return [
            ("pull, s", {name: middle(pulls[name]) for name in ("rootless", "podman", "skopeo")}),
            ("pull + first run, s", {name: middle(values) for name, values in first.items()}),
            ("rmi, ms", {"rootless": 1000 * middle(pulls["rmi"]), "podman": 1000 * middle(pulls["rmi podman"])}),
            ("peak memory, MB", {name: middle(values) for name, values in peaks.items()}),
            ("on disk, MB", room),
        ]


def lazy(home: Path, tar: Path, rounds: int) -> None:
    """The image is packed by skopeo as zstd:chunked."""
    plain = home / "plain.tar"
    with tarfile.open(tar) as source, tarfile.open(plain, "w") as target:
        for member in source:
            target.addfile(member, source.extractfile(member) if member.isreg() else None)
    data = plain.read_bytes().rstrip(b"\0")
    data += bytes(-len(data) % 512 + 1024)  # skopeo 1.9 drops more zeros than that, and the digest is another then
    archive = home / "archive.tar"
    archive.write_bytes(docker_archive([data], ["x:1"]))
    with registry(home) as address:
        push = ["skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", "--format", "oci"]
        push += ["--dest-compress-format", "zstd:chunked", f"docker-archive:{archive}"]
        subprocess.run([*push, f"docker://{address}/lazy:1"], check=True)
        link = subprocess.Popen(
            [sys.executable, "-m", "tests.images.shaping", address, "100", "50"], stdout=subprocess.PIPE, text=True
        )
        assert link.stdout is not None
        image = f"{link.stdout.readline().strip()}/lazy:1"
        sides = Sides(home, "podman", image)
        taken: dict[str, list[float]] = {"whole": [], "lazy": []}
        try:
            for _ in range(rounds):
                engine_pid(sides.environment)
                taken["whole"].append(sides.ours("pull", "-q", image))
                sides.ours("rmi", image)
                taken["lazy"].append(sides.ours("run", "--rm", "-q", "--pull", "lazy", image, "true"))
                sides.ours("rmi", image)
                sides.ours("system", "stop")  # an engine without containers forgets what was lazy
        finally:
            subprocess.run(["rootless", "system", "stop"], env=sides.environment, capture_output=True)
            link.kill()
    whole, first = statistics.median(taken["whole"]), statistics.median(taken["lazy"])
    print(f"whole pull {whole:.2f} s, first run with --pull lazy {first:.2f} s, ratio {first / whole:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tar", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--big", action="store_true")
    parser.add_argument("--lazy", action="store_true")
    parser.add_argument("--podman", default="podman --cgroup-manager=cgroupfs --runtime=runc")
    parser.add_argument("--prepared", type=Path, help="keep the image here and use it again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rootless-bench-", ignore_cleanup_errors=True) as temporary:
        home = Path(temporary)
        if options.lazy:
            lazy(home, options.tar, options.rounds)
            return
        served = options.prepared or home / "served"
        served.mkdir(exist_ok=True)
        name = "big" if options.big else "debian"
        with registry(served) as address:
            if not (served / "blobs" / "docker" / "registry" / "v2" / "repositories" / name).exists():
                preparing = multiprocessing.Process(target=prepare, args=(name, options.tar, home, address))
                preparing.start()
                preparing.join()
                if preparing.exitcode:
                    raise SystemExit("the image could not be prepared")
            sides = Sides(home, options.podman, f"{address}/{name}:1")
            try:
                rows = sides.measure(options.rounds)
            finally:
                sides.forget()
                subprocess.run(["rootless", "system", "stop"], env=sides.environment, capture_output=True)
                clear = f"umount {home}/podman/overlay; rm -rf {home}/podman"
                subprocess.run(["podman", "unshare", "sh", "-c", clear], capture_output=True)
    print(f"{name:22}{'rootless':>10}{'podman':>10}{'ratio':>8}{'skopeo':>10}")
    for what, values in rows:
        ours, theirs = values["rootless"], values["podman"]
        print(f"{what:22}{ours:10.2f}{theirs:10.2f}{ours / theirs:8.3f}{values.get('skopeo', float('nan')):10.2f}")


if __name__ == "__main__":
    main()
