"""Images and containers mounted where the host's user can look inside, read-only: `image mount`, `container mount`.

Each mount is a process of its own (`python -m fuse_overlay`), which outlives the engine and leaves when it is
unmounted. There is no list of them but the kernel's: what is mounted below `looks/` in the runtime directory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from rootless.engine.container import Container
from rootless.engine.link import Link
from rootless.engine.record import Records
from rootless.images.image import Image, ImageSource
from rootless.images.images import Images
from rootless.model.errors import Conflict, RootlessError
from rootless.settings import Settings
from rootless.store.layout import hex_of

_SHORT = 12


class Browsing:
    """Paths come and go as strings. Every method raises Conflict and RootlessError in words for the user."""

    def __init__(self, settings: Settings, images: Images, records: Records, link: Link) -> None:
        self._directory = settings.runtime_dir / "looks"
        self._images, self._records, self._link = images, records, link

    def mounted(self) -> dict[str, str]:
        """Name of the mount ("image-…" or "container-…", with the short id) -> its path."""
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            points = [line.split()[4] for line in file]
        prefix = f"{self._directory}/"
        return {point.removeprefix(prefix): point for point in points if point.startswith(prefix)}

    async def mount_image(self, image: Image) -> str:
        source = await self._images.sound_source(image)
        _check(source)
        layers = [str(layer) for layer in reversed(source.layers)]
        return await self._mount(self.image_name(image), [f"tree={_quoted(str(source.tree))}"], layers)

    async def mount_container(self, container: Container) -> str:
        """What the container sees of its image and its own changes, not its volumes; it goes on changing."""
        source = await self._images.sound_source(self._images.resolve(container.record.image_id))
        _check(source)
        upper = str(self._records.directory(container.id) / "upper")
        await self._link.get()
        options = [f"tree={_quoted(str(source.tree))}", "live", f"userns=/proc/{self._link.hello['pid']}/ns/user"]
        layers = [upper, *(str(layer) for layer in reversed(source.layers))]
        return await self._mount(self.container_name(container), options, layers)

    async def unmount(self, name: str, *, lazily: bool = False) -> None:
        """Raises Conflict where it is in use."""
        point = self.mounted().get(name)
        if point is None:
            raise Conflict(f"{name.partition('-')[2]} is not mounted")
        words = ["-u", *(["-z"] if lazily else []), "--", point]
        await self._run([_helper(), *words], f"cannot unmount {point}")
        await trio.to_thread.run_sync(os.rmdir, point)

    @staticmethod
    def image_name(image: Image) -> str:
        return f"image-{hex_of(image.id)[:_SHORT]}"

    @staticmethod
    def container_name(container: Container) -> str:
        return f"container-{container.id[:_SHORT]}"

    async def _mount(self, name: str, options: Sequence[str], layers: Sequence[str]) -> str:
        if (known := self.mounted().get(name)) is not None:
            return known
        point = self._directory / name
        await trio.to_thread.run_sync(_make, point)
        words = ",".join(["ro", "fsname=rootless", *options, "lowerdir=" + ":".join(map(_quoted, layers))])
        try:
            await self._run(
                [sys.executable, "-P", "-m", "fuse_overlay", "-o", words, str(point)], f"cannot mount {name}"
            )
        except RootlessError:
            await trio.to_thread.run_sync(os.rmdir, point)
            raise
        return str(point)

    async def _run(self, words: Sequence[str], doing: str) -> None:
        done = await trio.run_process(
            list(words), capture_stdout=True, capture_stderr=True, check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().removeprefix("rootless-fuse-overlay: ")
            if "busy" in said:
                raise Conflict(f"{doing}: somebody is using it (a shell whose directory is in there?)")
            raise RootlessError(f"{doing}: {said or f'exit code {done.returncode}'}")


def _check(source: ImageSource) -> None:
    if source.kind == "lazy":
        raise Conflict("the image is still on its way: look again when it is here")
    if source.kind != "tree":
        raise Conflict("the image host is this machine itself: look at /")


def _make(point: Path) -> None:
    point.parent.mkdir(mode=0o700, exist_ok=True)
    point.mkdir(mode=0o700, exist_ok=True)


def _quoted(path: str) -> str:
    """As fuse-overlayfs has paths in its options."""
    return path.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


def _helper() -> str:
    import shutil

    return shutil.which("fusermount3") or "fusermount"
