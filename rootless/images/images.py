"""The images of one data root and its additional, read-only stores: found by any of their names, listed, tagged,
removed.

Called by the engine. Everything that waits for a disk is done in worker threads; the pieces that make images are in
`importing`, `loading` and `pulling`, those that take them away in `removing`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from rootless.images import host, mending
from rootless.images.entries import entries_of, entry_meant, name_of, origin_of, place_name
from rootless.images.image import Image, ImageSource
from rootless.images.importing import ImportRequest, import_archive
from rootless.images.storing import Progress, Pulled, parse_image, place_image
from rootless.model import reference
from rootless.model.errors import Conflict, InvalidParameter, NotFound, RootlessError
from rootless.model.platforms import Platform, rank
from rootless.settings import Settings
from rootless.store import files
from rootless.store.index import MANIFEST_ANNOTATION, PULLED_ANNOTATION
from rootless.store.layout import Layout, hex_of
from rootless.store.uses import Uses

if TYPE_CHECKING:
    from rootless.images.lazy import LazyImages
    from rootless.registry.access import Access

_MIN_ID_PREFIX = 4


@dataclass
class _Found:
    """An image's entries of all stores: ours come first."""

    entries: list[dict[str, Any]]
    read_only: bool


class Images:
    """`prepare()` first."""

    def __init__(self, settings: Settings, given_up: Callable[[str, str], None] = lambda name, why: None) -> None:
        """`given_up`: see LazyImages."""
        self._given_up = given_up
        self.layout = Layout(settings.data_root, settings.additional_stores)
        self.uses = Uses(settings.data_root, settings.state_root)
        self._host = host.host_image()
        self._settings = settings
        self._schemes: dict[str, str] = {}
        self.lazy: LazyImages | None = None  # those on their way, where there ever was one
        self._parsed: dict[str, Image] = {}  # by manifest digest: what never changes of an image

    async def prepare(self) -> None:
        """Make the store's directories. Raises RootlessError."""
        await trio.to_thread.run_sync(self.layout.prepare)

    async def tidy(self) -> None:
        """Remove what an engine that was killed has left: what it placed and had not named, or the other way round; and
        what was kept of pulls that nobody took up."""
        from rootless.images.partial import remove_old
        from rootless.images.removing import collect

        def both() -> None:
            remove_old(self.layout)
            collect(self.layout, wait=True)

        with contextlib.suppress(RootlessError, OSError):
            await trio.to_thread.run_sync(both)

    # ------------------------------------------------------------------------------------------------ finding
    def all(self) -> list[Image]:
        """Every image, tagged or not; one whose blobs are missing is passed over."""
        by_digest: dict[str, _Found] = {}
        taken: set[str] = set()
        for layout in (self.layout, *self.layout.additional):
            names = {name for entry in layout.entries() if (name := name_of(entry))}
            for entry in layout.entries():
                found = by_digest.setdefault(entry["digest"], _Found([], layout is not self.layout))
                if name_of(entry) not in taken:
                    found.entries.append(entry)
            taken |= names
        made = []
        for digest, found in by_digest.items():
            try:
                made.append(self._image(digest, found))
            except (KeyError, RootlessError):
                continue
        if len(self._parsed) > 2 * len(by_digest) + 100:
            self._parsed = {digest: image for digest, image in self._parsed.items() if digest in by_digest}
        coming = {image_id: lazy.image for image_id, lazy in self.lazy.images.items()} if self.lazy else {}
        for at, image in enumerate(made):
            if (named := coming.pop(image.id, None)) is not None:  # it is here already, and its new name is coming
                made[at] = replace(image, names=tuple(sorted({*image.names, *named.names})))
        return [*made, *coming.values(), self._host]

    def _image(self, digest: str, found: _Found) -> Image:
        if (parsed := self._parsed.get(digest)) is None:
            parsed = self._parsed[digest] = parse_image(self.layout, digest)
        annotations = [entry.get("annotations") or {} for entry in found.entries]
        return replace(
            parsed,
            names=tuple(sorted({name for entry in found.entries if (name := name_of(entry))})),
            digests=tuple(sorted({a[PULLED_ANNOTATION] for a in annotations if PULLED_ANNOTATION in a})),
            pulled_manifests=tuple(sorted({a[MANIFEST_ANNOTATION] for a in annotations if MANIFEST_ANNOTATION in a})),
            read_only=found.read_only,
        )

    def resolve(self, text: str) -> Image:
        """By name, name@digest, id, or a prefix of the id. Raises NotFound, InvalidParameter (ambiguous)."""
        try:
            return self._resolve(text)
        except NotFound:
            self.layout.look_again()
            return self._resolve(text)

    def resolve_for(self, text: str, platform: Platform | None) -> Image:
        """The same, of a platform where one is asked for: a digest may be that of several, and one on its way has the
        name of one that is here. Raises NotFound in docker's words, upon which its client pulls that platform."""
        image = self.resolve(text)
        if platform is None:
            return image
        called = {*image.names, *image.digests}
        for candidate in (image, *(other for other in self.all() if called & {*other.names, *other.digests})):
            if rank(candidate.platform, platform) is not None:
                return candidate
        raise NotFound(
            f"image with reference {text} was found but its platform ({image.platform}) does not match the specified "
            f"platform ({platform})"
        )

    def _resolve(self, text: str) -> Image:
        images = self.all()
        wanted = text.removeprefix("sha256:")
        if len(wanted) >= _MIN_ID_PREFIX and set(wanted) <= set("0123456789abcdef"):
            matching = {image.id: image for image in images if hex_of(image.id).startswith(wanted)}
            if len(matching) > 1:
                raise InvalidParameter(f"ambiguous image id prefix {text!r}: {len(matching)} images have it")
            if matching:
                return next(iter(matching.values()))
        try:
            asked = reference.parse(text)
        except InvalidParameter:
            raise NotFound(f"No such image: {text}") from None
        for image in images:
            if asked.digest:
                theirs = {digest.rpartition("@")[2] for digest in image.digests}
                if asked.digest in theirs | {image.manifest_digest, image.id, *image.pulled_manifests}:
                    return image
            elif asked.name in image.names:
                return image
        raise NotFound(f"No such image: {asked.familiar}")

    def source(self, image: Image) -> ImageSource:
        """What to mount for this image."""
        if image.id == self._host.id:
            return host.host_source()
        if self.lazy is not None and (lazy := self.lazy.images.get(image.id)) is not None:
            return ImageSource(f"lazy-{lazy.tree.name[-27:]}", "lazy", lazy.tree, lazy.layers)
        tree = self.layout.tree(image.layers)
        layers = tuple(self.layout.layer(layer) for layer in image.layers)
        inode = 0
        with contextlib.suppress(OSError):  # one that is made anew is mounted anew: a server keeps the file it opened
            inode = tree.stat().st_ino
        return ImageSource(f"{tree.name[:32]}-{inode}", "tree", tree, layers)

    async def sound_source(self, image: Image) -> ImageSource:
        """The same, its indexes made anew where they are missing, damaged or of another version. Looking costs 0.1 ms.

        Raises RootlessError where they cannot be."""
        source = self.source(image)
        if source.kind == "tree" and not mending.is_sound(source, image.layers):
            await trio.to_thread.run_sync(mending.mend, source, image.layers)
            source = self.source(image)
        return source

    def forget(self) -> None:
        """Look at every image anew: blobs have been mended."""
        self._parsed.clear()

    def is_host(self, image: Image) -> bool:
        return image.id == self._host.id

    # ------------------------------------------------------------------------------------------------ making
    async def import_image(self, chunks: AsyncIterator[bytes], request: ImportRequest) -> str:
        """A root file system's tar, plain or compressed, as an image: its id. Raises InvalidParameter,
        RootlessError."""
        return await import_archive(self.layout, chunks, request)

    async def fetched(self, url: str) -> AsyncGenerator[bytes, None]:
        """What a web server has at an address. Raises NotFound, RootlessError (address, no connection, refused)."""
        from rootless.registry.transport import Transport

        transport = Transport(self.access)
        try:
            async with transport.request("GET", url if "://" in url else f"http://{url}", {}) as answer:
                if answer.status != 200:
                    kind = NotFound if answer.status == 404 else RootlessError
                    raise kind(f"cannot fetch {url}: the server answers with status {answer.status}")
                async for piece in answer.chunks():
                    yield piece
        finally:
            await transport.aclose()

    async def load(
        self, chunks: AsyncIterator[bytes], progress: Progress, platform: Platform | None = None
    ) -> list[str]:
        """The images of a `docker save` or OCI archive; returns their ids. Raises InvalidParameter, NotFound
        (platform), RootlessError."""
        from rootless.images.loading import load_archive

        return await load_archive(self.layout, chunks, progress, platform)

    def save(self, texts: Sequence[str], form: str) -> tuple[AsyncGenerator[bytes, None], Callable[[], None]]:
        """The bytes of an archive of images, `form` docker or oci, and what closes it if it is never begun. Raises
        NotFound, Conflict, InvalidParameter at once, RootlessError later."""
        from rootless.images import saving
        from rootless.images.archive import FORMATS

        if form not in FORMATS:
            raise InvalidParameter(f"invalid format {form!r}: it is one of {', '.join(FORMATS)}")
        opened = saving.open_images(self.layout, saving.select(texts, self.all(), self.resolve))
        return saving.save(opened, form), opened.close

    async def pull(
        self,
        wanted: reference.Reference,
        platform: Platform | None,
        auth: Mapping[str, str] | None,
        progress: Progress,
        *,
        all_tags: bool = False,
    ) -> None:
        """An image from its registry, or all of a repository. Raises NotFound, InvalidParameter (damaged), Forbidden
        (policy), RootlessError."""
        from rootless.images import pulling  # httpcore: what only a pull pays

        pull = pulling.pull_all_tags if all_tags else pulling.pull_image
        await pull(self.layout, self.access, wanted, platform, auth, progress)

    def resume_lazy(self, nursery: trio.Nursery, *, mounted: bool) -> None:
        """At the engine's start: go on with what another engine began. `mounted`: see LazyImages.resume."""
        if (self._settings.state_root / "lazy").is_dir():
            from rootless.client.credentials import Credentials

            home = Path(os.environ.get("DOCKER_CONFIG") or Path(os.environ.get("HOME", "/")) / ".docker")
            self._lazy(nursery).resume(mounted=mounted, auth=Credentials(home, os.environ.get("PATH", "")).get)

    async def pull_lazily(
        self,
        nursery: trio.Nursery,
        wanted: reference.Reference,
        platform: Platform | None,
        auth: Mapping[str, str] | None,
        progress: Progress,
    ) -> None:
        """Returns when it can be run; the rest follows. Where it cannot be had in parts, as `pull`."""
        if not await self._lazy(nursery).pull(wanted, platform, auth, progress):
            await self.pull(wanted, platform, auth, progress)

    def _lazy(self, nursery: trio.Nursery) -> LazyImages:
        if self.lazy is None:
            from rootless.images.lazy import LazyImages

            directory, socket = self._settings.state_root / "lazy", self._settings.runtime_dir / "lazy.sock"
            self.lazy = LazyImages(self.layout, directory, socket, lambda: self.access, nursery, self._given_up)
        return self.lazy

    @property
    def coming(self) -> bool:
        """Whether an image that was started lazily is still on its way."""
        return self.lazy is not None and not all(lazy.failed for lazy in self.lazy.images.values())

    def warnings(self, image: Image | None = None) -> list[str]:
        """What is to be said to whoever uses an image, or of all images."""
        lazy = self.lazy.images if self.lazy is not None else {}
        return [one.warning for key, one in lazy.items() if one.failed and (image is None or image.id == key)]

    async def push(
        self, image: Image, wanted: reference.Reference, auth: Mapping[str, str] | None, progress: Progress
    ) -> str:
        """To the registry that its name says; returns the manifest's digest. Raises Forbidden, RootlessError."""
        from rootless.images.pushing import push_image

        return await push_image(self.layout, self.access, image, wanted, auth, progress)

    async def login(self, server: str, auth: Mapping[str, str]) -> str:
        """Check credentials for a registry; an identity token where it gives one. Raises Unauthorized."""
        from rootless.registry import servers
        from rootless.registry.client import Registry

        access = self.access
        async with Registry(access, access.registry(servers.registry_of(server)), auth) as registry:
            return await registry.login()

    async def distribution(self, wanted: reference.Reference, auth: Mapping[str, str] | None) -> dict[str, Any]:
        """The shape of GET /distribution/{name}/json. Raises NotFound, RootlessError."""
        from rootless.images.pulling import distribution

        return await distribution(self.access, wanted, auth)

    @property
    def access(self) -> Access:
        """How registries are reached, by settings and environment."""
        from rootless.registry.access import Access

        return Access.of(self._settings, os.environ, self._schemes)

    async def tag(self, image: Image, repository: str, tag: str, text: str = "") -> None:
        """Give an image a further name, taken from another image if that has it, with the manifest of the name it was
        found by, `text`. Raises InvalidParameter, Conflict (host), NotFound."""
        name = reference.parse(f"{repository}:{tag}" if tag else repository).name
        if self.is_host(image):
            raise Conflict("the image host is this machine itself: it cannot be given other names, nor its own away")
        await trio.to_thread.run_sync(self._tag, image, name, text)

    def _tag(self, image: Image, name: str, text: str) -> None:
        if image.read_only:  # its layers stay where they are
            with files.temporary_directory(self.layout.temporary) as staging:
                self.layout.hold(staging, image.layers)
                config = self.layout.blob(image.id)
                place_image(self.layout, {}, config, [name], staging, self._pulled(image, text))
            return
        with self.layout.changing() as entries:
            mine = [entry for entry in entries if entry["digest"] == image.manifest_digest]
            if not mine:
                raise NotFound(f"No such image: {image.id}")
            like = entry_meant(mine, text)
            repository = origin_of(like).repository  # what was pulled by digest alone is still had by that
            place_name(entries, like, name, beside=repository not in ("", name.rpartition(":")[0]))

    def _pulled(self, image: Image, text: str) -> Pulled | None:
        """The registry's manifest of an image in additional stores, where it has one."""
        mine = entries_of(self.layout, image.manifest_digest)
        origin = origin_of(entry_meant(mine, text)) if mine else None
        if origin is None or not origin.manifest:
            return None
        try:
            return Pulled(self.layout.blob(origin.manifest), f"{origin.repository}@{origin.pulled_digest}")
        except (KeyError, RootlessError):
            return None

    # ------------------------------------------------------------------------------------------------ removing
    async def remove(self, text: str, *, force: bool, stopped: frozenset[str] = frozenset()) -> list[dict[str, str]]:
        """docker's rmi: a name loses its tag; the last name, or an id, deletes the image. What containers need stays,
        without a name, where that is forced; by its id only if all of them, of any engine, are among `stopped`, as Uses
        names them. Raises NotFound, Conflict (other names, or it is in use)."""
        from rootless.images.removing import must_force, remove_image, users_of

        image = self.resolve(text)
        if self.lazy is not None and (coming := self.lazy.images.get(image.id)) is not None:
            users = await trio.to_thread.run_sync(users_of, self.uses, image)
            here = any(entry["digest"] == image.manifest_digest for entry in self.layout.entries())
            if users and not (force or here or coming.failed):
                raise must_force(image, text, users[0])
            self.lazy.cancel(image)
            try:
                image = self.resolve(text)  # it is in the store as well
            except NotFound:
                gone = [] if any(other.id == image.id for other in self.all()) else [{"Deleted": image.id}]
                return [*({"Untagged": reference.parse(name).familiar} for name in coming.image.names), *gone]
        if self.is_host(image):
            raise Conflict("conflict: unable to delete host: it is this machine's own root directory")
        if image.read_only:
            raise Conflict(f"conflict: unable to delete {text}: it is in a read-only store (additional_stores)")
        return await trio.to_thread.run_sync(remove_image, self.layout, self.uses, image, text, force, stopped)

    async def use(self, container_id: str, image: Image) -> None:
        """Note that a container needs an image, which is there at that moment. Raises NotFound."""
        await trio.to_thread.run_sync(self._use, container_id, image)

    def _use(self, container_id: str, image: Image) -> None:
        with self.layout.changing() as entries:
            own = any(entry["digest"] == image.manifest_digest for entry in entries)
            coming = self.lazy is not None and image.id in self.lazy.images
            if not own and not coming and not image.read_only and not self.is_host(image):
                raise NotFound(f"No such image: {image.id}")
            self.uses.add(container_id, image.id)
