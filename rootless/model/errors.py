"""The domain's errors. Everything in `rootless` raises these; each adapter maps them in one place:
`api.errors` to HTTP statuses, `cli.errors` to exit codes. The message is a sentence for the user: what failed, why,
and where possible what to do about it."""

from __future__ import annotations

import errno
from typing import TypeGuard

_FULL = (errno.ENOSPC, errno.EDQUOT)


class RootlessError(Exception):
    """Any failure with a message fit for the user. HTTP 500 unless a subclass says otherwise."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidParameter(RootlessError):
    """The request itself is wrong (HTTP 400)."""


class Unauthorized(RootlessError):
    """Credentials are missing or refused (HTTP 401)."""


class Forbidden(RootlessError):
    """Understood and refused (HTTP 403)."""


class NotFound(RootlessError):
    """No such container, image, network … (HTTP 404)."""


class Conflict(RootlessError):
    """The object's state or name stands in the way (HTTP 409)."""


class NotModified(RootlessError):
    """Already so: started, stopped (HTTP 304)."""


class Unavailable(RootlessError):
    """A part of the host or a peer that we need is missing or does not answer (HTTP 503)."""


class StartError(RootlessError):
    """A container's process could not be started. `exit_code` is docker's: 127 command not found, 126 found but
    not executable, 125 anything else. HTTP 400 for 126 and 127 (as dockerd does), 500 for 125."""

    def __init__(self, message: str, exit_code: int = 125) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def is_full(error: BaseException | None) -> TypeGuard[OSError]:
    """Whether a disk, or what a user may have of it, is."""
    return isinstance(error, OSError) and error.errno in _FULL


def disk_trouble(error: OSError) -> str:
    """What a disk says, where, and what can be done if it is full."""
    where = f" ({error.filename})" if error.filename else ""
    hint = "; make room (rootless image prune, rootless rm) or set data_root to a larger disk" if is_full(error) else ""
    return f"{error.strerror}{where}{hint}"


def unforeseen(error: Exception) -> str:
    """What is said of an error that nobody has put into words: a bug, but for a full disk, which may show anywhere."""
    if is_full(error):
        return disk_trouble(error)
    return f"internal error: {type(error).__name__}: {error}"
