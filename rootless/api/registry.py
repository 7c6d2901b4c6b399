"""What the Engine API has to say to registries besides pull: push, login, search, the digests of a name."""

from __future__ import annotations

from rootless.api import filters as filters_module
from rootless.api.http import Request, Response, StreamResponse, json_response
from rootless.api.images import asked_platform, progress_response, registry_auth
from rootless.engine.engine import Engine
from rootless.images.image import Image
from rootless.images.storing import Progress
from rootless.model import reference
from rootless.model.errors import Conflict, InvalidParameter, NotFound
from rootless.model.platforms import Platform

MAX_SEARCH = 100


async def push(engine: Engine, request: Request, parameters: dict[str, str]) -> Response | StreamResponse:
    """One tag, or without one all that the repository has here."""
    text, tag = parameters["name"], request.query.get("tag", "")
    if "@" in text:
        raise InvalidParameter("cannot push a digest reference")
    if tag:
        text += f":{tag}"
    wanted = reference.parse(text)
    names = [wanted.name] if reference.has_tag(text) else _names_of(engine, wanted)
    images = [(_find(engine, name), reference.parse(name)) for name in names]
    if not images:
        raise NotFound(f"An image does not exist locally with the tag: {wanted.familiar_repository}")
    if wished := asked_platform(request):
        for image, name in images:
            _check_platform(image, name, wished)
    auth = registry_auth(request)

    async def work(progress: Progress) -> None:
        for image, name in images:
            await engine.images.push(image, name, auth, progress)
            engine.events.emit("image", "push", name.familiar, {"name": name.familiar})

    return await progress_response(engine, request, work)


def _names_of(engine: Engine, wanted: reference.Reference) -> list[str]:
    return [name for image in engine.images.all() for name in image.names if name.startswith(wanted.repository + ":")]


def _find(engine: Engine, name: str) -> Image:
    wanted = reference.parse(name)
    image = next((image for image in engine.images.all() if name in image.names), None)
    if image is None:
        raise NotFound(f"An image does not exist locally with the tag: {wanted.familiar_repository}")
    if engine.images.is_host(image):
        raise Conflict("the image host is this machine's own root directory: it cannot be pushed")
    return image


def _check_platform(image: Image, name: reference.Reference, wished: Platform) -> None:
    there = image.platform
    if (there.system, there.architecture) != (wished.system, wished.architecture) or (
        wished.variant and there.variant not in ("", wished.variant)
    ):
        raise NotFound(
            f"image with reference {name.familiar} was found but does not match the specified platform: "
            f"wanted {wished}, actual: {there}"
        )


async def login(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    """Are the credentials good? They are not kept here: that is the client's."""
    body = await request.json()
    auth = {key: value for key, value in body.items() if isinstance(value, str) and value}
    token = await engine.images.login(auth.get("serveraddress", ""), auth)
    return json_response({"Status": "Login Succeeded", "IdentityToken": token})


async def search(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    term = request.query.get("term", "")
    if not term:
        raise InvalidParameter("a term to search for is needed")
    limit = request.number("limit", 25)
    if not 1 <= limit <= MAX_SEARCH:
        raise InvalidParameter(f"Limit {limit} is outside the range of [1, {MAX_SEARCH}]")
    filters = filters_module.parse(request.query.get("filters", ""), ("is-automated", "is-official", "stars"))
    from rootless.registry import hub

    rows = await hub.search(engine.images.access, term, limit, registry_auth(request))
    return json_response([row for row in rows if hub.fits(row, filters)])


async def distribution(engine: Engine, request: Request, parameters: dict[str, str]) -> Response:
    """The manifest's descriptor and the platforms there are."""
    wanted = reference.parse(parameters["name"])
    return json_response(await engine.images.distribution(wanted, registry_auth(request)))


ROUTES = [
    ("POST", "/auth", login),
    ("GET", "/images/search", search),
    ("POST", "/images/{name*}/push", push),
    ("GET", "/distribution/{name*}/json", distribution),
]
