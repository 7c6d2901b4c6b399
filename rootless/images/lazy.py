"""Images that are started before they are here (`run --pull lazy`): the tree comes at once, what is read is fetched
when it is read, the rest follows in the background as an ordinary pull does. Below the state root:

    lazy/<packed digest>/    a lazy layer (fuse_overlay.layers.lazy), for the containers that were started with it
    lazy/tree-<chain id>     the tree over such layers
    lazy/pull-<chain id>     a pull that is not over: the name and the platform, for the next engine, and why it will
                             never be over, where that is so

Every chunk is verified against its table of contents, and that against the manifest. An image is in no index.json
before all of it is here: until then this engine alone knows it. Where what the registry has is damaged nothing more is
fetched but what containers read, and whoever makes one is told. Layers must be zstd:chunked or eStargz, and the
registry must serve ranges; what is not is pulled in the ordinary way."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from fuse_overlay import LayerError, merge_lazy_tree
from rootless.images import pulling
from rootless.images.image import Image
from rootless.images.lazy_layer import LazyLayer, fill, open_layer
from rootless.images.pulling import Found, opened
from rootless.images.storing import Progress, explained, parse_json
from rootless.model import platforms, reference
from rootless.model.errors import InvalidParameter, NotFound, RootlessError, unforeseen
from rootless.model.platforms import Platform
from rootless.model.reference import Reference
from rootless.registry.access import Access
from rootless.registry.repository import Repository
from rootless.store.layout import Layout, chain_id, hex_of

QUIET_SECONDS = 1.5  # nobody has read anything new for so long: then the background's turn begins
RETRY_SECONDS = 15.0
PARTS_AT_ONCE = 6
Auth = Mapping[str, str]


class NotLazy(Exception):
    """This image can only be pulled as a whole."""


@dataclass
class LazyImage:
    """One on its way. `layers` are directories, of whole layers and lazy ones."""

    image: Image
    tree: Path
    layers: tuple[Path, ...]
    scope: trio.CancelScope
    record: Path
    failed: str = ""  # why it will never be here as a whole

    @property
    def warning(self) -> str:
        """For whoever uses one that has failed."""
        name = reference.parse(next(iter(self.image.names or self.image.digests))).familiar
        return (
            f"the image {name} cannot be pulled as a whole, and is read from its registry: {self.failed}; "
            f"when it has been mended there: rootless rmi {name}; rootless pull {name}"
        )


class LazyImages:
    """Of one engine. `serve` runs as long as that does."""

    def __init__(
        self,
        layout: Layout,
        directory: Path,
        socket_path: Path,
        access: Callable[[], Access],
        nursery: trio.Nursery,
        given_up: Callable[[str, str], None],
    ) -> None:
        """`given_up` is called with the name of an image that will never be here as a whole, and the reason."""
        self._layout = layout
        self._directory = directory
        self._socket_path = socket_path
        self._access = access
        self._nursery = nursery
        self._given_up = given_up
        self._layers: dict[str, LazyLayer] = {}
        self._limit = trio.CapacityLimiter(PARTS_AT_ONCE)
        self._last_read = 0.0
        self._listening = False
        self._beginning = 0  # pulls that have not started yet
        self._changed = trio.Event()
        self.images: dict[str, LazyImage] = {}  # by image id

    async def pull(self, wanted: Reference, platform: Platform | None, auth: Auth | None, progress: Progress) -> bool:
        """Returns when the image can be run; False where it can only be pulled as a whole. Raises what `pull_image`
        does."""
        started = trio.Event()
        failure: list[Exception] = []
        self._nursery.start_soon(self._run, wanted, platform, auth, progress, started, failure)
        await started.wait()
        if failure and isinstance(failure[0], NotLazy):
            return False
        if failure:
            raise failure[0]
        return True

    def cancel(self, image: Image) -> bool:
        """Give an image up that is on its way; whether there was one."""
        found = self.images.pop(image.id, None)
        if found is None:
            return False
        found.scope.cancel()
        found.record.unlink(missing_ok=True)
        return True

    def resume(self, *, mounted: bool, auth: Callable[[str], Auth | None]) -> None:
        """At the engine's start: go on with what another left. `mounted`: containers may still have lazy layers."""
        if not self._directory.is_dir():
            return
        records = list(self._directory.glob("pull-*"))
        if not mounted:
            for path in self._directory.iterdir():
                if path not in records:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        for record in records:
            try:
                value = json.loads(record.read_bytes())
                wanted = reference.parse(value["name"])
                platform = platforms.parse(value["platform"]) if value["platform"] else None
            except (OSError, ValueError, KeyError, TypeError, RootlessError):
                record.unlink(missing_ok=True)
                continue
            self._nursery.start_soon(self._resume, wanted, platform, auth(wanted.registry), record)

    async def _resume(self, wanted: Reference, platform: Platform | None, auth: Auth | None, record: Path) -> None:
        try:
            await self.pull(wanted, platform, auth, lambda message: None)
            if all(lazy.record != record for lazy in self.images.values()):  # the name means another image by now
                record.unlink(missing_ok=True)
        except RootlessError as error:
            print(f"lazy pull of {wanted.familiar}: {error.message}", file=sys.stderr)

    # ------------------------------------------------------------------------------------------------ one pull
    async def _run(
        self,
        wanted: Reference,
        platform: Platform | None,
        auth: Auth | None,
        progress: Progress,
        started: trio.Event,
        failure: list[Exception],
    ) -> None:
        access = self._access()
        self._beginning += 1
        try:
            async with opened(access, access.registry(wanted.registry), wanted, auth) as repository:
                lazy = await self._begin(access, repository, platform, progress)
                progress({"status": f"Status: Started lazily: {wanted.familiar}; the rest follows"})
                self._begun(started)
                with lazy.scope:
                    await self._fetch_ahead(lazy)
                    await self._complete(lazy, wanted, platform, auth)
        except (RootlessError, NotLazy) as error:
            failure.append(error)
        except Exception as error:  # a bug must not take the engine with it
            traceback.print_exc()
            failure.append(RootlessError(unforeseen(error)))
        finally:
            self._begun(started)

    def _begun(self, started: trio.Event) -> None:
        if not started.is_set():
            started.set()
            self._beginning -= 1
            self._changed.set()
            self._changed = trio.Event()

    async def _fetch_ahead(self, lazy: LazyImage) -> None:
        """What every process reads when it starts, while the container is being made."""
        try:
            async with trio.open_nursery() as nursery:
                for directory in lazy.layers:
                    if (layer := self._layers.get(directory.name)) is not None:
                        for number in layer.read_first():
                            nursery.start_soon(layer.fetch, number, self._limit)
        except ExceptionGroup as group:
            error = pulling.first_error(group)
            if not isinstance(error, RootlessError):
                raise
            # whoever reads it is told

    async def _begin(
        self, access: Access, repository: Repository, platform: Platform | None, progress: Progress
    ) -> LazyImage:
        await self._listen()
        wanted = repository.wanted
        found = await pulling.find(self._layout, access, repository, platform, progress)
        layers: dict[str, Path] = {}

        async def open_one(descriptor: Mapping[str, object], diff_id: str) -> None:
            layer = await open_layer(repository, descriptor, self._directory, self._socket_path)
            directory = layers[diff_id] = self._directory / hex_of(layer.digest)
            self._layers[directory.name] = layer

        try:
            async with trio.open_nursery() as nursery:
                for descriptor, diff_id in zip(found.descriptors, found.layers, strict=True):
                    if self._layout.layer(diff_id).exists():
                        layers[diff_id] = self._layout.layer(diff_id)
                    else:
                        nursery.start_soon(open_one, descriptor, diff_id)
        except ExceptionGroup as group:
            error = pulling.first_error(group)
            if isinstance(error, NotFound | InvalidParameter | LayerError):
                raise NotLazy(str(error)) from None
            raise error from None
        directories = tuple(layers[diff_id] for diff_id in found.layers)
        return await trio.to_thread.run_sync(self._register, wanted, platform, found, directories)

    def _register(
        self, wanted: Reference, platform: Platform | None, found: Found, directories: Sequence[Path]
    ) -> LazyImage:
        chain = hex_of(chain_id(found.layers))
        tree = self._directory / f"tree-{chain}"
        record = self._directory / f"pull-{chain}"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            tree.unlink(missing_ok=True)
            merge_lazy_tree(directories, tree)
            failed = _failure(record)
            _write(record, wanted, platform, failed)
        except (LayerError, OSError) as error:
            raise explained(error) from error
        image_id = f"sha256:{hashlib.sha256(found.config).hexdigest()}"
        names = {wanted.name} if wanted.tag else set()
        digests = {f"{wanted.repository}@{found.shown}"}
        if (other := self.images.get(image_id)) is not None:  # on its way under another name
            names |= {*other.image.names}
            digests |= {*other.image.digests}
        image = Image(
            id=image_id,
            config=parse_json(found.config, "the image's configuration"),
            manifest_digest=found.manifest.digest,
            layers=tuple(found.layers),
            layer_bytes=tuple((directory / "layer.tar").stat().st_size for directory in directories),
            names=tuple(sorted(names)),
            digests=tuple(sorted(digests)),
        )
        lazy = LazyImage(image, tree, tuple(directories), trio.CancelScope(), record, failed)
        self.images[image.id] = lazy
        return lazy

    async def _complete(self, lazy: LazyImage, wanted: Reference, platform: Platform | None, auth: Auth | None) -> None:
        """The rest, when nobody has asked for anything for a while; again and again until it is here. What came and is
        not what it should be will not be so the next time: then the registry stays open for what is read."""
        if lazy.failed:
            await trio.sleep_forever()
        self._last_read = trio.current_time()
        while (left := self._last_read + QUIET_SECONDS - trio.current_time()) > 0:
            await trio.sleep(left)
        while True:
            try:
                access = self._access()
                await pulling.pull_image(self._layout, access, wanted, platform, auth, lambda message: None)
                break
            except InvalidParameter as error:
                lazy.failed = error.message
                print(f"lazy pull of {wanted.familiar}: {error.message}; given up", file=sys.stderr)
                with contextlib.suppress(OSError):
                    _write(lazy.record, wanted, platform, lazy.failed)
                self._given_up(wanted.familiar, lazy.failed)
                await trio.sleep_forever()
            except RootlessError as error:
                print(f"lazy pull of {wanted.familiar}: {error.message}; trying again", file=sys.stderr)
                await trio.sleep(RETRY_SECONDS)
        if self.images.get(lazy.image.id) is lazy:  # and not one that came later, under another name
            del self.images[lazy.image.id]
        for diff_id, directory in zip(lazy.image.layers, lazy.layers, strict=True):
            if (layer := self._layers.get(directory.name)) is not None:
                await trio.to_thread.run_sync(fill, layer.content, directory, self._layout.layer(diff_id))
        await trio.to_thread.run_sync(lambda: lazy.record.unlink(missing_ok=True))

    # ------------------------------------------------------------------------------------------------ questions
    async def _listen(self) -> None:
        if self._listening:
            return
        self._listening = True
        self._socket_path.unlink(missing_ok=True)
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        await listener.bind(str(self._socket_path))
        listener.listen(128)
        self._nursery.start_soon(trio.serve_listeners, self._serve, [trio.SocketListener(listener)])

    async def _serve(self, stream: trio.SocketStream) -> None:
        """One question of an image server: see fuse_overlay.layers.lazy."""
        async with stream:
            received = b""
            while not received.endswith(b"\n"):
                data = await stream.receive_some(4096)
                if not data or len(received) > 65536:
                    return
                received += data
            directory, *numbers = received.decode(errors="replace").split()
            good = await self._fetch(Path(directory).name, numbers)
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(b"\1" if good else b"\0")

    async def _fetch(self, name: str, numbers: Sequence[str]) -> bool:
        while (layer := self._layers.get(name)) is None and self._beginning:
            await self._changed.wait()  # an engine that has just been started
        if layer is None:
            return False
        wanted = [int(number) for number in numbers if number.isdecimal()]
        if len(wanted) != len(numbers) or max(wanted, default=0) >= len(layer.content.spans):
            return False
        try:
            async with trio.open_nursery() as nursery:
                for number in wanted:
                    nursery.start_soon(layer.fetch, number, self._limit)
            return True
        except ExceptionGroup as group:
            error = pulling.first_error(group)
            if not isinstance(error, RootlessError):
                raise
            print(f"lazy layer {layer.digest}: {error}", file=sys.stderr)
            return False
        finally:
            self._last_read = trio.current_time()


def _write(record: Path, wanted: Reference, platform: Platform | None, failed: str) -> None:
    """Whole or not at all, but not synced: see fuse_overlay.layers.lazy. Raises OSError."""
    said = {"name": wanted.familiar, "platform": str(platform or ""), "failed": failed}
    new = record.with_name(f".{record.name}")
    new.write_text(json.dumps(said))
    new.rename(record)


def _failure(record: Path) -> str:
    """Why another engine gave this up, or ""."""
    try:
        return str(json.loads(record.read_bytes()).get("failed", ""))
    except (OSError, ValueError, AttributeError):
        return ""
