"""One registry at one endpoint: requests with its scheme, its authorization, and again after a while where that helps.

What the requests are about is said by `repository` (pull), `uploads` (push) and `hub` (search)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urljoin

import trio

from rootless.model.errors import NotFound, RootlessError, Unauthorized
from rootless.registry.access import Access, Endpoint
from rootless.registry.authorization import Authorization, parse_challenge
from rootless.registry.documents import parse_json
from rootless.registry.transport import Answer, Body, Broken, Transport, same_origin

REPEATED = (408, 429, 500, 502, 503, 504)
MAX_WAIT_SECONDS = 60.0
MAX_PAGES = 1000
_MAX_PAGE_BYTES = 4 << 20


@dataclass(frozen=True)
class Patience:
    """How long to wait before a request is sent again. Pure."""

    backoff_seconds: float
    attempts: int

    def seconds(self, failures: int, retry_after: str = "") -> float | None:
        """After the first failure, the second …; what the registry says counts (RFC 9110 10.2.3). None: give up."""
        if failures >= self.attempts:
            return None
        return min(MAX_WAIT_SECONDS, max(_asked(retry_after), self.backoff_seconds * 2.0 ** (failures - 1)))


def _asked(retry_after: str) -> float:
    """Seconds; given as such or as a date (RFC 9110 5.6.7), 0 where it is neither."""
    if retry_after.isdecimal():
        return float(retry_after) if len(retry_after) < 6 else 0.0
    if not retry_after:
        return 0.0
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


class Registry:
    """Use as `async with`. Its errors name the host."""

    def __init__(self, access: Access, endpoint: Endpoint, auth: Mapping[str, str] | None) -> None:
        self.host = endpoint.host
        self.patience = Patience(access.backoff_seconds, access.attempts)
        found = access.found.get(endpoint.host, "")
        self._schemes = tuple(sorted(endpoint.schemes, key=lambda scheme: scheme != found))
        self._found = access.found
        self._base = ""  # once it has answered
        self._transport = Transport(access)
        self._authorization = Authorization(self._transport, self.host, None if endpoint.mirror else auth)

    async def __aenter__(self) -> Registry:
        return self

    async def __aexit__(self, *error: object) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
            await self._transport.aclose()

    @asynccontextmanager
    async def request(
        self,
        method: str,
        target: str,
        *,
        scope: str = "",
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        length: int = 0,
        repeat: bool = True,
    ) -> AsyncIterator[Answer]:
        """`target` is a path, or an address that this registry has given. An answer whatever its status: challenges
        are answered; where it is one that may pass (429, 503 …) or breaks off, it is asked for again if `repeat`.

        Raises Broken, RootlessError."""
        failures = refusals = 0
        while True:
            async with AsyncExitStack() as stack:
                used = self._authorization.header(scope)
                retry_after = ""
                try:
                    answer = await self._enter(stack, method, target, used, headers or {}, body, length)
                except Broken as error:
                    failures += 1
                    wait = self.patience.seconds(failures) if repeat and (self._base or error.connected) else None
                    if wait is None:
                        raise
                else:
                    if answer.status == 401 and refusals < 2:
                        refusals += 1
                        challenge, secure = answer.headers.get("www-authenticate", ""), answer.url.startswith("https:")
                        if same_origin(answer.url, self._base) and await self._authorization.answer(
                            challenge, scope, used, secure
                        ):
                            continue
                    failures += 1
                    retry_after = answer.headers.get("retry-after", "")
                    wait = self.patience.seconds(failures, retry_after)
                    if answer.status not in REPEATED or not repeat or wait is None:
                        yield answer
                        return
            await trio.sleep(wait)

    async def _enter(
        self,
        stack: AsyncExitStack,
        method: str,
        target: str,
        authorization: str,
        headers: Mapping[str, str],
        body: Body | None,
        length: int,
    ) -> Answer:
        """The first answer finds out whether there is TLS."""
        bases = [self._base] if self._base else [f"{scheme}://{self.host}" for scheme in self._schemes]
        for base in bases:
            url = urljoin(base, target)
            sent = dict(headers)
            if authorization and same_origin(url, base):
                sent["Authorization"] = authorization
            try:
                answer = await stack.enter_async_context(self._transport.request(method, url, sent, body, length))
            except Broken:
                if base == bases[-1]:
                    raise
                continue
            self._base = base
            self._found[self.host] = base.partition(":")[0]
            return answer
        raise AssertionError("unreachable")

    # ------------------------------------------------------------------------------------------------ of the whole
    async def login(self) -> str:
        """Check the credentials; an identity token where the registry gives one, else "".

        Raises Unauthorized with docker's words, RootlessError."""
        async with self.request("GET", "/v2/") as answer:
            if answer.status == 401:
                await self._refuse_login(answer)
            elif answer.status != 200:
                raise RootlessError(f"{self.host} answered {answer.status}: is it a registry?")
            base = answer.url
        async with self._transport.request("GET", base, {}) as answer:
            challenge = parse_challenge(answer.headers.get("www-authenticate", ""))
        if challenge.kind != "bearer" or self._authorization.anonymous:
            return ""
        token = await self._authorization.token(challenge, "", base.startswith("https:"), offline=True)
        return token.refresh

    async def _refuse_login(self, answer: Answer) -> None:
        said = "; ".join(f"{code.lower()}: {message}" for code, message in await answer.errors())
        raise Unauthorized(f"Get {answer.url!r}: {said or 'unauthorized: incorrect username or password'}")

    async def pages(self, path: str, name: str, scope: str) -> AsyncIterator[str]:
        """The strings of a list that comes in pages (distribution-spec, "Listing Tags"). Raises NotFound,
        RootlessError."""
        target = f"{path}?n=1000"
        for _ in range(MAX_PAGES):
            async with self.request("GET", target, scope=scope) as answer:
                if answer.status in (401, 403, 404, 405):
                    said = "; ".join(message for _, message in await answer.errors()) or str(answer.status)
                    raise NotFound(f"{self.host} does not tell its {name}: {said}")
                if answer.status != 200:
                    raise RootlessError(f"{self.host} answered {answer.status} for its {name}; try again later")
                page = parse_json(await answer.read(_MAX_PAGE_BYTES, f"the list of {name}"), f"the list of {name}")
                link = answer.headers.get("link", "")
            rows = page.get(name)
            for row in rows if isinstance(rows, list) else ():
                if isinstance(row, str):
                    yield row
            if 'rel="next"' not in link or "<" not in link:
                return
            target = link.partition("<")[2].partition(">")[0]
