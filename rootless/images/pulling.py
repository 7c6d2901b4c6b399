"""`pull`: an image from a registry. Layers come side by side, each hashed, unpacked and indexed as it streams in.

Mirrors are asked first; whatever goes wrong there, the next endpoint is asked. What has come before a failure is kept
for the next pull (`partial`)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from rootless.images import sources
from rootless.images.entries import origin_of
from rootless.images.partial import Kept, PartialLayer, remove_old
from rootless.images.progress import Bar
from rootless.images.removing import collect
from rootless.images.storing import Progress, Pulled, diff_ids, explained, parse_json, place_image, write_ahead
from rootless.model.errors import InvalidParameter, NotFound, RootlessError, Unavailable
from rootless.model.platforms import Platform, here
from rootless.model.reference import Reference
from rootless.registry import policy
from rootless.registry.access import Access, Endpoint
from rootless.registry.client import Registry
from rootless.registry.media import MANIFESTS, MAX_CONFIG_BYTES, choose, digest_of, refuse_foreign, size_of
from rootless.registry.repository import Manifest, Repository
from rootless.registry.transport import Broken
from rootless.store import files
from rootless.store.layout import Layout, hex_of

LAYERS_AT_ONCE = 3  # docker's; each takes memory for its entries
LOCK_POLL_SECONDS = 0.2
RESUMED = (Broken, Unavailable)  # after these what has come is kept for the next pull
KEPT_FROM_BYTES = 1 << 20  # a smaller layer is fetched anew rather than kept when it breaks off


class _Turn:
    """A layer's, to be fetched and then finished: while it is, the next is fetched."""

    def __init__(self, fetching: trio.CapacityLimiter, finishing: trio.CapacityLimiter) -> None:
        self._held, self._finishing = fetching, finishing

    async def __aenter__(self) -> _Turn:
        await self._held.acquire()
        return self

    async def finish(self) -> None:
        """Where it turns out to be damaged and is fetched anew, it keeps this place."""
        if self._held is not self._finishing:
            await self._finishing.acquire()
            self._held.release()
            self._held = self._finishing

    async def __aexit__(self, *error: object) -> None:
        self._held.release()


@dataclass(frozen=True)
class Found:
    """A manifest for one platform, what it lists, and the digest of what was asked for, which may be an index's."""

    manifest: Manifest
    config: bytes
    descriptors: Sequence[Mapping[str, Any]]
    layers: Sequence[str]
    shown: str


async def pull_image(
    layout: Layout,
    access: Access,
    wanted: Reference,
    platform: Platform | None,
    auth: Mapping[str, str] | None,
    progress: Progress,
) -> str:
    """Returns the image's id. Every digest is verified before anything of it is visible. Without a platform this
    machine's is taken, or what there is where the image is for one alone.

    Raises NotFound, InvalidParameter (what came is damaged), Forbidden (policy), RootlessError (registry, disk)."""
    await trio.to_thread.run_sync(remove_old, layout)
    endpoints = access.endpoints(wanted.registry)
    for endpoint in endpoints:
        try:
            async with opened(access, endpoint, wanted, auth) as repository:
                return await _pull(layout, access, repository, platform, progress)
        except (NotFound, InvalidParameter, *RESUMED) as error:
            if endpoint is endpoints[-1]:
                raise
            progress({"status": f"Mirror {endpoint.host}: {error.message}"})
    raise AssertionError("unreachable")


async def pull_all_tags(
    layout: Layout,
    access: Access,
    wanted: Reference,
    platform: Platform | None,
    auth: Mapping[str, str] | None,
    progress: Progress,
) -> list[str]:
    """Every tag of a repository; the ids of the images. Raises what `pull_image` does."""
    async with opened(access, access.registry(wanted.registry), wanted, auth) as repository:
        tags = await repository.tags()
    if not tags:
        raise NotFound(f"{wanted.familiar_repository} has no tags on {repository.registry.host}")
    made = []
    for tag in tags:
        one = Reference(wanted.registry, wanted.path, tag)
        made.append(await pull_image(layout, access, one, platform, auth, progress))
    return made


@asynccontextmanager
async def opened(
    access: Access, endpoint: Endpoint, wanted: Reference, auth: Mapping[str, str] | None, *, actions: str = "pull"
) -> AsyncIterator[Repository]:
    """Raises Forbidden before anybody is asked, where the name must not be pulled."""
    if actions == "pull":
        policy.check_name(access.policy, wanted)
    async with Registry(access, endpoint, auth) as registry:
        yield Repository(registry, wanted, actions=actions)


async def find(
    layout: Layout, access: Access, repository: Repository, platform: Platform | None, progress: Progress | None = None
) -> Found:
    """The manifest and configuration for a platform, both verified; a configuration that is here is not fetched.

    Raises NotFound, InvalidParameter, Forbidden."""
    wanted = repository.wanted
    manifest = await repository.manifest(wanted.digest or wanted.tag)
    if progress is not None:
        progress({"status": f"Pulling from {wanted.path}", "id": wanted.tag or wanted.digest})
    shown = manifest.digest
    policy.check_digests(access.policy, wanted, shown)
    await policy.check_signature(access.policy, repository, shown)
    from_index = manifest.is_index
    if from_index:
        index = parse_json(manifest.data, "the index")
        manifest = await repository.manifest(choose(index, platform or here(), wanted.familiar))
    if manifest.kind not in MANIFESTS:
        raise InvalidParameter(f"{wanted.familiar} is of a kind that cannot be run: {manifest.kind or 'unknown'}")
    parts = parse_json(manifest.data, "the manifest")
    config = await _configuration(layout, repository, digest_of(parts.get("config"), "configuration"))
    said = parse_json(config, "the image's configuration")
    layers, descriptors = diff_ids(said), parts.get("layers")
    if not isinstance(descriptors, list) or len(descriptors) != len(layers):
        raise InvalidParameter("the manifest and the configuration do not list the same layers")
    for descriptor in descriptors:
        digest_of(descriptor, "layer")
        size_of(descriptor, "layer")
        refuse_foreign(descriptor)
    policy.check_digests(access.policy, wanted, manifest.digest, *(str(one["digest"]) for one in descriptors))
    if platform is not None and not from_index:
        _check_platform(wanted, said, platform)
    return Found(manifest, config, descriptors, layers, shown)


async def _configuration(layout: Layout, repository: Repository, digest: str) -> bytes:
    path = layout.blob_path(digest)
    with suppress(OSError, KeyError, RootlessError):
        # a layer's digest may be given for it, and that is a link to something large
        if not path.is_symlink() and path.stat().st_size <= MAX_CONFIG_BYTES:
            return await trio.to_thread.run_sync(layout.blob, digest)
    return await repository.small_blob(digest)


async def distribution(access: Access, wanted: Reference, auth: Mapping[str, str] | None) -> dict[str, Any]:
    """The descriptor of what a name means now, and its platforms. Raises NotFound, RootlessError."""
    async with opened(access, access.registry(wanted.registry), wanted, auth) as repository:
        manifest = await repository.manifest(wanted.digest or wanted.tag)
        value = parse_json(manifest.data, "the manifest")
        if manifest.is_index:
            rows = [row.get("platform") for row in value.get("manifests") or () if isinstance(row, dict)]
        else:
            config = await repository.small_blob(digest_of(value.get("config"), "configuration"))
            said = parse_json(config, "the image's configuration")
            rows = [{key: said[key] for key in ("architecture", "os", "variant") if said.get(key)}]
    described = {"mediaType": manifest.kind, "digest": manifest.digest, "size": len(manifest.data)}
    return {"Descriptor": described, "Platforms": [row for row in rows if isinstance(row, dict)]}


def _check_platform(wanted: Reference, config: Mapping[str, Any], platform: Platform) -> None:
    there = Platform(*(str(config.get(name) or "") for name in ("os", "architecture", "variant")))
    offered = {"digest": f"sha256:{'0' * 64}", "platform": there.image_fields()}
    try:
        choose({"manifests": [offered]}, platform, wanted.familiar)
    except NotFound:
        raise NotFound(
            f"image with reference {wanted.familiar} was found but its platform ({there}) does not match the specified "
            f"platform ({platform})"
        ) from None


async def _pull(
    layout: Layout, access: Access, repository: Repository, platform: Platform | None, progress: Progress
) -> str:
    wanted = repository.wanted
    found = await find(layout, access, repository, platform, progress)
    try:
        image_id, new = await _store(layout, repository, found, progress)
    except RootlessError as error:
        if not isinstance(error, RESUMED):
            damaged = isinstance(error, InvalidParameter)  # else it is the disk, which wants room
            await trio.to_thread.run_sync(lambda: _give_up(layout, found, keep_parts=damaged))
            await trio.to_thread.run_sync(lambda: collect(layout, wait=True))  # the layers that were good are of no use
        raise
    progress({"status": f"Digest: {found.shown}"})
    what = "Downloaded newer image" if new else "Image is up to date"
    progress({"status": f"Status: {what} for {wanted.familiar}"})
    return image_id


async def _store(layout: Layout, repository: Repository, found: Found, progress: Progress) -> tuple[str, bool]:
    """(image id, whether the name stood for another one, or none, before)."""
    wanted = repository.wanted
    with ExitStack() as cleaning:
        staging = await trio.to_thread.run_sync(cleaning.enter_context, files.temporary_directory(layout.temporary))
        await _layers(repository, layout, found, staging, progress)
        names = [wanted.name] if wanted.tag else []
        pulled = Pulled(found.manifest.data, f"{wanted.repository}@{found.shown}")

        def place() -> tuple[str, bool]:
            before = _image_meant(layout, wanted, found)
            image_id = place_image(layout, {}, found.config, names, staging, pulled)
            for descriptor, diff_id in zip(found.descriptors, found.layers, strict=True):
                form = sources.form_of(str(descriptor.get("mediaType")))
                digest, size = str(descriptor["digest"]), int(descriptor["size"])
                sources.remember(layout, diff_id, sources.Source(wanted.repository, digest, size, form))
            _give_up(layout, found, keep_parts=False)
            return image_id, _image_meant(layout, wanted, found) != before

        return await trio.to_thread.run_sync(place)


def _image_meant(layout: Layout, wanted: Reference, found: Found) -> str:
    """The digest of our manifest that a name, or a digest without one, stands for; "" while it does for none."""
    for entry in layout.entries():
        origin = origin_of(entry)
        by_digest = (origin.repository, origin.pulled_digest) == (wanted.repository, found.shown)
        if origin.name == wanted.name if wanted.tag else by_digest:
            return str(entry["digest"])
    return ""


def _give_up(layout: Layout, found: Found, *, keep_parts: bool) -> None:
    """What was kept for the next pull: there is an image now, or there will be none."""
    for digest in {str(descriptor["digest"]) for descriptor in found.descriptors}:
        PartialLayer(layout, digest).give_up(keep_parts=keep_parts)


def _give_back_buffers() -> None:
    """The C library keeps what it was given for later; entries of layers take their memory from elsewhere. 10 MB."""
    import ctypes

    with suppress(AttributeError, OSError):  # malloc_trim(3) is glibc's
        ctypes.CDLL(None).malloc_trim(0)


async def _layers(repository: Repository, layout: Layout, found: Found, staging: Path, progress: Progress) -> None:
    """Fetch those that are not here. Each goes to its place as soon as it is whole, where another pull finds it;
    `staging` holds all of them."""
    here = await trio.to_thread.run_sync(layout.hold, staging, found.layers)
    fetching, finishing = trio.CapacityLimiter(LAYERS_AT_ONCE), trio.CapacityLimiter(1)
    asked: set[str] = set()
    idle_cpus = min(len({*found.layers} - here), LAYERS_AT_ONCE) < len(os.sched_getaffinity(0))
    try:
        async with trio.open_nursery() as nursery:
            for descriptor, diff_id in zip(found.descriptors, found.layers, strict=True):
                bar = Bar(hex_of(descriptor["digest"])[:12], progress)
                if diff_id in here or diff_id in asked:
                    bar.say("Already exists")
                    continue
                asked.add(diff_id)
                bar.say("Pulling fs layer")
                partial = PartialLayer(layout, descriptor["digest"], idle_cpus=idle_cpus)
                turn = _Turn(fetching, finishing)
                nursery.start_soon(_fetch, repository, layout, partial, descriptor, diff_id, turn, bar)
    except ExceptionGroup as group:
        raise first_error(group) from None


async def _fetch(
    repository: Repository,
    layout: Layout,
    partial: PartialLayer,
    descriptor: Mapping[str, Any],
    diff_id: str,
    turn: _Turn,
    bar: Bar,
) -> None:
    async with turn:
        if not await trio.to_thread.run_sync(partial.try_lock):
            bar.say("Waiting")
            while not await trio.to_thread.run_sync(partial.try_lock):
                await trio.sleep(LOCK_POLL_SECONDS)
        end = partial.keep
        try:
            if await trio.to_thread.run_sync(layout.layer(diff_id).exists):
                bar.say("Already exists")  # another pull was at work on it
                return
            if await trio.to_thread.run_sync(partial.finished) == diff_id:
                await trio.to_thread.run_sync(_place, layout, partial, diff_id)
            else:
                await _download(repository, layout, partial, descriptor, diff_id, turn, bar)
            bar.say("Pull complete")
        except Exception as error:  # and not where it is cancelled, which comes in a group
            if not isinstance(error, RESUMED):
                end = partial.discard
            raise
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(end)


def _place(layout: Layout, partial: PartialLayer, diff_id: str) -> None:
    try:
        partial.hold(diff_id)
        with layout.changing():
            layout.place_layer(partial.layer, diff_id)
    except OSError as error:
        raise explained(error) from error


async def _download(
    repository: Repository,
    layout: Layout,
    partial: PartialLayer,
    descriptor: Mapping[str, Any],
    diff_id: str,
    turn: _Turn,
    bar: Bar,
) -> None:
    digest, size = str(descriptor["digest"]), int(descriptor["size"])
    kept = Kept.PACKED if str(descriptor.get("mediaType")).endswith(("gzip", "zstd")) else Kept.PLAIN
    if size < KEPT_FROM_BYTES:
        kept = Kept.NOTHING

    def finish() -> None:
        partial.finish(diff_id, repository.registry.host)
        _give_back_buffers()
        _place(layout, partial, diff_id)

    begin: Callable[[], int] = lambda: partial.begin(kept)  # noqa: E731
    try:
        start = await trio.to_thread.run_sync(begin)
    except InvalidParameter:
        start = size + 1
    while True:
        if start > size:
            await trio.to_thread.run_sync(partial.restart)
            start = await trio.to_thread.run_sync(begin)
        try:
            if start < size or not size:
                async with aclosing(repository.blob(digest, size, start)) as pieces:
                    until = _UntilBroken(pieces)
                    await write_ahead(bar.counted(until.pieces(), start, size), partial.write)
                if until.error is not None:
                    raise until.error
            bar.say("Verifying Checksum")
            await turn.finish()
            await trio.to_thread.run_sync(finish)
            return
        except InvalidParameter as error:
            if not start:
                if digest in error.message:
                    raise
                raise InvalidParameter(f"layer {digest} from {repository.registry.host}: {error.message}") from error
            start = size + 1  # what was kept may be what is wrong


class _UntilBroken:
    """The pieces up to where the connection broke for good, so that all of them are written before that is told."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self.error: Broken | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._pieces:
                yield piece
        except Broken as error:
            self.error = error


def first_error(group: BaseExceptionGroup[Exception]) -> Exception:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
