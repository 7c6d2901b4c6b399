"""Credentials of registries where docker keeps them: config.json, or the helper programs that it names.

    {"auths": {"host:5000": {"auth": "<base64 of user:password>", "identitytoken": "…"}},
     "credsStore": "secretservice", "credHelpers": {"host:5000": "gcloud"}}

Source: docker's documentation of `docker login`, docker-credential-helpers' README. A password is never shown, nor
given to a program as an argument."""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from rootless.model.errors import InvalidParameter, RootlessError
from rootless.registry.servers import key_of, registry_of

TOKEN_USER = "<token>"  # under which helpers keep an identity token
_HELPER_SECONDS = 60
Auth = dict[str, str]


class Credentials:
    """Of one configuration directory. Raises InvalidParameter (the file), RootlessError (a helper)."""

    def __init__(self, directory: Path, path: str) -> None:
        self.file = directory / "config.json"
        self._path = path

    def get(self, registry: str) -> Auth | None:
        """docker's AuthConfig for a registry (docker.io, host:port); None where there is none."""
        value = self._read()
        key = key_of(registry)
        if helper := self._helper(value, registry):
            found = self._ask(helper, "get", key)
            if found is None:
                return None
            return self._auth(key, str(found.get("Username") or ""), str(found.get("Secret") or ""))
        for name, entry in _table(value, "auths").items():
            if isinstance(entry, dict) and (name == key or registry_of(name) == registry):
                return self._from_entry(key, name, entry)
        return None

    def put(self, registry: str, username: str, password: str, identity_token: str) -> str:
        """Keep them; returns the name of the helper that does, "" for the file."""
        value = self._read()
        key = key_of(registry)
        if helper := self._helper(value, registry):
            user, secret = (TOKEN_USER, identity_token) if identity_token else (username, password)
            self._ask(helper, "store", json.dumps({"ServerURL": key, "Username": user, "Secret": secret}))
            return helper
        word = f"{username}:{'' if identity_token else password}"
        entry = {"auth": base64.b64encode(word.encode()).decode()}
        if identity_token:
            entry["identitytoken"] = identity_token
        self._write({**value, "auths": {**_table(value, "auths"), key: entry}})
        return ""

    def forget(self, registry: str) -> bool:
        """Whether there were any."""
        value = self._read()
        known = False
        if helper := self._helper(value, registry):
            known = self.get(registry) is not None
            if known:
                self._ask(helper, "erase", key_of(registry))
        auths = _table(value, "auths")
        kept = {name: entry for name, entry in auths.items() if registry_of(name) != registry}
        if kept != auths:
            self._write({**value, "auths": kept})
        return known or kept != auths

    # ------------------------------------------------------------------------------------------------ the file
    def _read(self) -> dict[str, Any]:
        try:
            value = json.loads(self.file.read_bytes() or b"{}")
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError) as error:
            raise InvalidParameter(f"cannot read {self.file}: {error}") from None
        if not isinstance(value, dict):
            raise InvalidParameter(f"cannot read {self.file}: it is not a JSON object")
        return value

    def _write(self, value: dict[str, Any]) -> None:
        """For the user alone; a link that leads elsewhere stays one."""
        target = Path(os.path.realpath(self.file))
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd, temporary = tempfile.mkstemp(prefix=".config.json.", dir=target.parent)
            try:
                with os.fdopen(fd, "w") as file:
                    file.write(json.dumps(value, indent="\t"))
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(temporary, target)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise RootlessError(f"cannot write {self.file}: {error.strerror}") from error

    def _from_entry(self, key: str, name: str, entry: dict[str, Any]) -> Auth | None:
        username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
        if entry.get("auth"):
            try:
                username, _, password = base64.b64decode(str(entry["auth"])).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                raise InvalidParameter(f"cannot read {self.file}: the credentials of {name} are damaged") from None
        auth = {"username": username, "password": password.rstrip("\0"), "serveraddress": key}
        auth |= {word: str(entry[word]) for word in ("identitytoken", "registrytoken") if entry.get(word)}
        return {word: text for word, text in auth.items() if text} if len(auth) > 3 or username else None

    @staticmethod
    def _auth(key: str, username: str, secret: str) -> Auth:
        if username == TOKEN_USER:
            return {"identitytoken": secret, "serveraddress": key}
        return {"username": username, "password": secret, "serveraddress": key}

    # ------------------------------------------------------------------------------------------------ helpers
    @staticmethod
    def _helper(value: dict[str, Any], registry: str) -> str:
        helpers = {registry_of(name): helper for name, helper in _table(value, "credHelpers").items()}
        return str(helpers.get(registry) or value.get("credsStore") or "")

    def _ask(self, helper: str, verb: str, said: str) -> dict[str, Any] | None:
        """The helper's answer; None where it has no credentials."""
        program = f"docker-credential-{helper}"
        if "/" in helper:
            raise InvalidParameter(f"{self.file} names a credential helper that cannot be one: {helper!r}")
        try:
            done = subprocess.run(
                [program, verb],
                input=said.encode(),
                stdout=subprocess.PIPE,
                timeout=_HELPER_SECONDS,
                env={**os.environ, "PATH": self._path},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = getattr(error, "strerror", None) or "it does not answer"
            raise RootlessError(f"cannot use the credential helper {program} of {self.file}: {reason}") from None
        text = done.stdout.decode(errors="replace").strip()
        if done.returncode:
            if "credentials not found" in text:
                return None
            raise RootlessError(f"the credential helper {program} failed: {text or f'exit code {done.returncode}'}")
        if verb != "get":
            return {}
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise RootlessError(f"the credential helper {program} answered with something that is not JSON")
        return found


def header(auth: Auth | None) -> dict[str, str]:
    """The header that takes credentials to the engine."""
    if not auth:
        return {}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(auth).encode()).decode()}


def _table(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}
