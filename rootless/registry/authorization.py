"""Answers a registry's challenge (RFC 9110 11.6.1; distribution, "Token authentication"): Basic, or a token from the
server that it names. Owns the tokens of one registry; sends nothing to anybody else."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

import trio

from rootless.model.errors import RootlessError, Unavailable
from rootless.registry.documents import parse_json
from rootless.registry.transport import Broken, Transport

_PAIR = re.compile(r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_MAX_TOKEN_BYTES = 1 << 20
CLIENT_ID = "rootless"


@dataclass(frozen=True)
class Challenge:
    """`kind` in lower case; `values` as service, realm, scope."""

    kind: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Token:
    """`refresh` is an identity token, where one was asked for and given."""

    access: str = ""
    refresh: str = ""


def parse_challenge(header: str) -> Challenge:
    """The first challenge of a WWW-Authenticate header that we can answer, Bearer before Basic."""
    starts = [(match[1].lower(), match.end()) for match in re.finditer(r"(?:^|,\s*)(Bearer|Basic)\s+", header, re.I)]
    for wanted in ("bearer", "basic"):
        for kind, at in starts:
            if kind == wanted:
                values = {name.lower(): quoted or plain for name, quoted, plain in _PAIR.findall(header[at:])}
                return Challenge(kind, values)
    return Challenge("", {})


class Authorization:
    """`auth` is docker's AuthConfig: username and password, identitytoken or registrytoken; None for nobody."""

    def __init__(self, transport: Transport, host: str, auth: Mapping[str, str] | None) -> None:
        self._transport = transport
        self._host = host
        self._auth = auth or {}
        self._headers: dict[str, str] = {}  # by scope
        self._lock = trio.Lock()

    @property
    def anonymous(self) -> bool:
        return not any(self._auth.get(name) for name in ("username", "identitytoken", "registrytoken"))

    def header(self, scope: str) -> str:
        """To send with a request now; "" before the first challenge."""
        return self._headers.get(scope, "")

    async def answer(self, header: str, scope: str, used: str, secure: bool) -> bool:
        """Whether a request that was refused is worth another try. `used` is the header it was sent with, `secure`
        whether it went through TLS. Raises RootlessError where no token can be had."""
        async with self._lock:
            if self._headers.get(scope, "") != used:
                return True  # another request got a new one meanwhile
            made = await self._answer(parse_challenge(header), scope, secure)
            if not made or (made == used and made.startswith("Basic ")):
                return False
            self._headers[scope] = made
            return True

    @property
    def _basic(self) -> str:
        if not self._auth.get("username"):
            return ""
        word = f"{self._auth['username']}:{self._auth.get('password', '')}"
        return f"Basic {base64.b64encode(word.encode()).decode()}"

    async def _answer(self, challenge: Challenge, scope: str, secure: bool) -> str:
        if self._auth.get("registrytoken"):
            return f"Bearer {self._auth['registrytoken']}"
        if challenge.kind == "basic":
            return self._basic
        if challenge.kind == "bearer":
            token = (await self.token(challenge, scope, secure)).access
            return f"Bearer {token}" if token else ""
        return ""

    async def token(self, challenge: Challenge, scope: str, secure: bool, *, offline: bool = False) -> Token:
        """From the server that the challenge names; an empty one where it gives none. `offline` asks for an identity
        token too. Raises RootlessError."""
        realm = challenge.values.get("realm", "")
        scheme = urlsplit(realm).scheme
        if scheme != "https" and not (scheme == "http" and not secure):
            raise RootlessError(f"{self._host} wants credentials to be sent to {realm!r}, which is not https: refused")
        scopes = scope.split() or challenge.values.get("scope", "").split()
        query = [("service", challenge.values.get("service", "")), *(("scope", one) for one in scopes)]
        headers = {"Accept": "application/json"}
        body = None
        if self._auth.get("identitytoken"):
            form = [("grant_type", "refresh_token"), ("refresh_token", self._auth["identitytoken"])]
            form += [("client_id", CLIENT_ID), ("service", challenge.values.get("service", ""))]
            body = urlencode([*form, ("scope", " ".join(scopes))]).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            url = realm
        else:
            if self._basic:
                headers["Authorization"] = self._basic
                query.append(("account", self._auth["username"]))
            if offline:
                query += [("client_id", CLIENT_ID), ("offline_token", "true")]
            url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
        try:
            async with self._transport.request("POST" if body else "GET", url, headers, body) as answer:
                if answer.status in (429, 500, 502, 503, 504):
                    raise Unavailable(f"cannot get a token for {self._host}: {realm} answered {answer.status}")
                if answer.status != 200:
                    return Token()
                found = parse_json(await answer.read(_MAX_TOKEN_BYTES, "the token"), "the token")
        except Broken as error:
            raise Broken(
                f"cannot get a token for {self._host} from {realm}: {error.message}", connected=error.connected
            ) from None
        access = next((str(found[name]) for name in ("token", "access_token") if found.get(name)), "")
        if not access.isprintable() or " " in access:
            raise RootlessError(f"{realm} gave a token that cannot be one")
        return Token(access, str(found.get("refresh_token") or ""))
