"""Domain errors -> HTTP, in one place. The body is docker's: {"message": …}."""

from __future__ import annotations

from rootless.api.http import BadRequest, Response, json_response
from rootless.model import errors

_STATUSES: list[tuple[type[Exception], int]] = [
    (BadRequest, 400),
    (errors.InvalidParameter, 400),
    (errors.Unauthorized, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.Unavailable, 503),
]


def response(error: Exception) -> Response:
    """The response for a domain error, or for a bug (500, with its class)."""
    if isinstance(error, errors.NotModified):
        return Response(304)
    if isinstance(error, errors.StartError):
        return json_response({"message": error.message}, 400 if error.exit_code in (126, 127) else 500)
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    text = str(error)
    if status == 500 and not isinstance(error, errors.RootlessError):
        text = errors.unforeseen(error)
    return json_response({"message": text}, status)
