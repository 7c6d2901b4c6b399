"""A client of one registry repository: OCI distribution-spec ("Pulling"), with docker's token authentication.

Registries on loopback and those of `insecure_registries` may speak plain HTTP or have an unknown certificate; all
others must speak TLS. Credentials go to the registry and to the token server it names, and do not follow redirects to
another host."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx

from rootless.images.storing import parse_json
from rootless.model.errors import InvalidParameter, NotFound, RootlessError
from rootless.model.reference import DEFAULT_REGISTRY, Reference

MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MAX_MANIFEST_BYTES = 4 << 20
MAX_CONFIG_BYTES = 8 << 20
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class Registry:
    """Use as `async with`. Every method raises NotFound, InvalidParameter (damaged data) or RootlessError, which name
    the host."""

    def __init__(self, wanted: Reference, auth: dict[str, str] | None, insecure: Sequence[str]) -> None:
        self._wanted = wanted
        self._auth = auth or {}
        self.host = "registry-1.docker.io" if wanted.registry == DEFAULT_REGISTRY else wanted.registry
        self._insecure = insecure
        self._may_be_plain = self._is_insecure(self.host)
        self._scheme = ""
        self._authorization = ""
        self._client = self._make_client(self.host)

    def _is_insecure(self, host: str) -> bool:
        return host in self._insecure or _is_loopback(host)

    def _make_client(self, host: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            timeout=httpx.Timeout(60, connect=15),
            follow_redirects=True,
            verify=not self._is_insecure(host),
            headers={"User-Agent": "rootless"},
            trust_env=not _is_loopback(host),
        )

    async def __aenter__(self) -> Registry:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.aclose()

    # ------------------------------------------------------------------------------------------------ content
    async def manifest(self, tag_or_digest: str) -> tuple[bytes, str, str]:
        """A manifest or index: its bytes, media type and digest, which is checked where it was asked for."""
        accept = ", ".join((*MANIFESTS, *INDEXES))
        async with self._get(f"manifests/{tag_or_digest}", accept) as response:
            data = await _whole(response, MAX_MANIFEST_BYTES, f"the manifest {tag_or_digest}")
            kind = response.headers.get("content-type", "").partition(";")[0].strip()
            claimed = response.headers.get("docker-content-digest", "")
        wanted = tag_or_digest if ":" in tag_or_digest else claimed
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if wanted.startswith("sha256:") and digest != wanted:
            raise InvalidParameter(f"{self.host} sent another manifest than {wanted}: {digest}")
        kind = str(parse_json(data, "the manifest").get("mediaType") or kind)
        return data, kind, digest

    async def small_blob(self, digest: str) -> bytes:
        async with self._get(f"blobs/{digest}") as response:
            data = await _whole(response, MAX_CONFIG_BYTES, f"the blob {digest}")
        if digest != f"sha256:{hashlib.sha256(data).hexdigest()}":
            raise InvalidParameter(f"{self.host} sent a damaged blob {digest}")
        return data

    async def blob(self, digest: str, size: int) -> AsyncGenerator[bytes, None]:
        """The pieces of a blob; the caller checks its digest. More or less than `size` is an error."""
        received = 0
        try:
            async with self._get(f"blobs/{digest}") as response:
                async for piece in response.aiter_raw(1 << 18):
                    received += len(piece)
                    if received > size:
                        break
                    yield piece
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if received != size:
            raise InvalidParameter(f"{self.host} sent a blob {digest} of the wrong length, not {size} bytes")

    # ------------------------------------------------------------------------------------------------ requests
    @asynccontextmanager
    async def _get(self, path: str, accept: str = "*/*") -> AsyncIterator[httpx.Response]:
        """A successful answer, its body not yet read."""
        request_path = f"/v2/{self._wanted.path}/{path}"
        for attempt in (1, 2):
            response = await self._send(request_path, accept)
            try:
                if response.status_code == 401 and attempt == 1:
                    await response.aread()
                    if await self._authorize(response.headers.get("www-authenticate", "")):
                        continue
                if response.status_code != 200:
                    await self._refuse(response, path)
                yield response
                return
            except httpx.HTTPError as error:
                raise self._unreachable(error) from None
            finally:
                await response.aclose()

    async def _send(self, path: str, accept: str) -> httpx.Response:
        schemes = [self._scheme] if self._scheme else ["https", "http"] if self._may_be_plain else ["https"]
        # identity: a blob's bytes must be those its digest is of
        headers = {"Accept": accept, "Accept-Encoding": "identity"}
        if self._authorization:
            headers["Authorization"] = self._authorization
        for scheme in schemes:
            request = self._client.build_request("GET", f"{scheme}://{self.host}{path}", headers=headers)
            try:
                response = await self._client.send(request, stream=True)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                if scheme != schemes[-1] and isinstance(error, (httpx.ConnectError, httpx.RemoteProtocolError)):
                    continue
                raise self._unreachable(error) from None
            self._scheme = scheme
            return response
        raise AssertionError("unreachable")

    async def _authorize(self, challenge: str) -> bool:
        """Answer a WWW-Authenticate header (RFC 9110 11.6.1; distribution, "Token authentication")."""
        kind, _, rest = challenge.partition(" ")
        user = f"{self._auth.get('username', '')}:{self._auth.get('password', '')}"
        basic = "" if user.startswith(":") else f"Basic {base64.b64encode(user.encode()).decode()}"
        if self._auth.get("registrytoken"):
            self._authorization = f"Bearer {self._auth['registrytoken']}"
        elif kind.lower() == "basic":
            self._authorization = basic
        elif kind.lower() == "bearer":
            token = await self._token(dict(_CHALLENGE.findall(rest)), basic)
            self._authorization = f"Bearer {token}" if token else ""
        return bool(self._authorization)

    async def _token(self, challenge: dict[str, str], basic: str) -> str:
        """From the server that the challenge names; "" where it gives none."""
        realm = challenge.get("realm", "")
        url = httpx.URL(realm)
        if url.scheme != "https" and not (url.scheme == "http" and self._scheme == "http"):
            raise RootlessError(f"{self.host} wants credentials to be sent to {realm!r}, which is not https: refused")
        query = {
            "service": challenge.get("service", ""),
            "scope": challenge.get("scope") or f"repository:{self._wanted.path}:pull",
        }
        headers = {"Authorization": basic} if basic else {}
        # a client of its own: that the registry's certificate need not be known says nothing of this server's
        async with self._make_client(url.netloc.decode()) as client:
            try:
                if self._auth.get("identitytoken"):
                    form = {**query, "grant_type": "refresh_token", "refresh_token": self._auth["identitytoken"]}
                    answer = await client.post(url, data={**form, "client_id": "rootless"})
                else:
                    answer = await client.get(url, params=query, headers=headers)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise RootlessError(f"cannot get a token for {self.host} from {realm}: {_reason(error)}") from None
        if answer.status_code != 200:
            return ""
        found = parse_json(answer.content, "the token")
        return next((str(found[name]) for name in ("token", "access_token") if found.get(name)), "")

    async def _refuse(self, response: httpx.Response, path: str) -> None:
        """Raise what a status means, in docker's words."""
        name = self._wanted.familiar_repository
        if response.status_code in (401, 403):
            raise NotFound(
                f"pull access denied for {name}, repository does not exist or may require authentication: "
                f"{self.host} answered {response.status_code}"
            )
        if response.status_code == 404:
            if path.startswith("manifests/"):
                raise NotFound(f"manifest for {self._wanted.familiar} not found: manifest unknown on {self.host}")
            raise NotFound(f"{self.host} has no {path} of {name}")
        raise RootlessError(f"{self.host} answered {response.status_code} for {path} of {name}; try again later")

    def _unreachable(self, error: Exception) -> RootlessError:
        return RootlessError(f"cannot reach the registry {self.host}: {_reason(error)}")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


async def _whole(response: httpx.Response, limit: int, what: str) -> bytes:
    data = bytearray()
    async for piece in response.aiter_raw():
        data += piece
        if len(data) > limit:
            raise InvalidParameter(f"{what} is longer than {limit >> 20} MiB")
    return bytes(data)


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
